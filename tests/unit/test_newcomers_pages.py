"""docs/troubleshooting.md names what the service can say; the handler of docs/coming-from-celery.md runs."""

import re
from pathlib import Path
from typing import Any

from accepted.domain import explanation
from accepted.domain.monitoring.problems import Kind
from accepted.testing import run
from tests.support.pages import blocks_to_run
from tests.support.service.processes import ROOT


def test_every_reason_of_explain_and_every_kind_of_problem_is_in_troubleshooting() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    reasons = re.findall(r'(?:Explanation|_in_line)\(\s*"(\w+)"', Path(explanation.__file__).read_text())
    assert len(reasons) > 20
    assert not [code for code in {*reasons, *Kind} if f"`{code}`" not in page]


def test_a_moved_task_runs() -> None:
    (block,) = blocks_to_run("docs/coming-from-celery.md")
    module: dict[str, Any] = {"__name__": "moved", "charge": lambda cents, key: f"R{cents}"}
    exec(compile(block.text, block.page, "exec"), module)
    outcome = run(module["pay"], {"number": 7, "cents": 1999})
    assert (outcome.result, outcome.steps) == ("R1999", {"charge": "R1999"})
    assert [child.payload for child in outcome.children] == [{"number": 7, "receipt": "R1999"}]
