"""The plugin of pytest: the fixture `accepted`, a service that tests share. It loads nothing until one asks for it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from accepted.testing.harness import WorkerHarness

OPTION = "accepted_handlers"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The modules of handlers, in the configuration of pytest."""
    parser.addini(OPTION, "modules whose handlers the fixture `accepted` serves; default: ACCEPTED_HANDLERS", "args")


@pytest.fixture(scope="session")
def accepted_service(request: pytest.FixtureRequest) -> "Iterator[WorkerHarness]":
    """The service of the session, with whatever the tests before have left in it."""
    from accepted.testing.harness import WorkerHarness

    with WorkerHarness(request.config.getini(OPTION) or None) as harness:
        yield harness


@pytest.fixture
def accepted(accepted_service: "WorkerHarness") -> "WorkerHarness":
    """The service of the session, without any job."""
    accepted_service.clear()
    return accepted_service
