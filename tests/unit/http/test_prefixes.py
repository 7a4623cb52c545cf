"""A prefix behind a proxy is none of the paths that the service has itself."""

import pytest
from fastapi.routing import iter_route_contexts

from accepted.api.app import create_app
from accepted.domain.ids import OWN_PATHS, is_own_path
from accepted.settings import Settings


def test_all_paths_of_the_service_are_known() -> None:
    routes = create_app(Settings(database_url="postgresql://127.0.0.1/nothing")).routes
    paths = [str(route.path) for route in iter_route_contexts(routes)]
    assert {path.split("/")[1] for path in paths} - {""} == OWN_PATHS


@pytest.mark.parametrize(
    ("prefix", "is_own"), [("/ui", True), ("/jobs/a", True), ("/job", False), ("/a/jobs", False), ("", False)]
)
def test_a_prefix_that_would_be_mistaken(prefix: str, is_own: bool) -> None:
    assert is_own_path(prefix) is is_own
