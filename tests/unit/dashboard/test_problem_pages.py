"""Where the overview leads for each kind of problem."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from fastapi.routing import iter_route_contexts

from accepted.api.app import create_app
from accepted.dashboard.pages.runbook import sections
from accepted.dashboard.ways import page_about
from accepted.domain.monitoring import problems
from accepted.domain.monitoring.problems import Kind, StatusProblem
from accepted.settings import Settings

NOW = datetime.now(UTC)
ID = "01a20a73-7f5d-744f-9754-2aec7fff0b68"
QUEUE: dict[str, Any] = {"name": "a", "paused": True}

ACTED_UPON = [
    problems.no_scheduler(NOW, delayed=True),
    problems.failing_loop("relay", NOW, True),
    problems.queue_problem(QUEUE, 1, 9.0, NOW),
    problems.unserved_type("a", "t", NOW),
    problems.blocked_loop("w", {"job_id": ID}, None, NOW),
    problems.blocked_loop("w", {}, None, NOW),
    problems.stuck("a", "t", ID, NOW, 900.0, 1.0),
    problems.crashes("a", "t", 3, NOW),
    problems.dead_letters("a", "t", 9, NOW),
    problems.held_host("example.com:443", NOW, "it fails", 2, NOW),
    problems.receiver_given_up("example.com", NOW),
    problems.unfired("every day", "is late", NOW),
]


@pytest.fixture(scope="module")
def paths() -> list[Any]:
    """The patterns of the paths of pages."""
    routes = create_app(Settings(database_url="postgresql://127.0.0.1/nothing")).routes
    found = [getattr(route, "path_regex", None) for route in iter_route_contexts(routes)]
    return [one for one in found if one is not None and one.pattern.startswith("^/ui/")]


@pytest.mark.parametrize("problem", ACTED_UPON, ids=lambda one: one.kind)
def test_a_problem_leads_to_a_page_of_its_own(problem: StatusProblem, paths: list[Any]) -> None:
    path = page_about(msgspec.to_builtins(problem)).partition("?")[0]
    assert any(one.match(path) for one in paths), path


def test_the_runbook_has_a_section_for_each_kind() -> None:
    assert {kind.value.replace("_", "-") for kind in Kind} <= {section.name for section in sections()}
