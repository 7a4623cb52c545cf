"""The hooks and the fixture that make the table of a run, for the conftest of each folder whose tests name faults."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.client import Client
from tests.faults.table import Measured

_TIMES = pytest.StashKey[list[str]]()
_ROWS = pytest.StashKey[dict[str, table.Row]]()
PASSED = pytest.StashKey[bool]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """`measured("rescue", seconds, limit)`: fails above the limit, and is printed at the end of the run."""
    times = request.node.stash.setdefault(_TIMES, [])

    def note(what: str, seconds: float, limit: float) -> None:
        times.append(f"{what} {seconds:.2f} s (limit {limit:g})")
        assert seconds <= limit, f"{what} took {seconds:.2f} s, more than {limit:g}"

    return note


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*ids, moment): the faults of the fault list that the test makes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    rows = item.config.stash.setdefault(_ROWS, {})
    if report.when == "call" and not report.skipped:
        item.stash[PASSED] = report.passed
        if row := _row(item):
            rows[item.nodeid] = row
    if report.failed and item.nodeid in rows:
        rows[item.nodeid].passed = False
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = list(config.stash.get(_ROWS, {}).values())
    if not rows:
        return
    terminalreporter.section("faults")
    for line in table.lines(rows):
        terminalreporter.line(line)
    if path := os.environ.get("FAULTS_TABLE"):
        table.write(Path(path), rows)


def _row(item: pytest.Item) -> table.Row | None:
    marker = item.get_closest_marker("fault")
    if marker is None:
        return None
    client = getattr(item, "funcargs", {}).get("client")
    verdict = client.verdict if isinstance(client, Client) else None
    name = item.name.replace("[", " (").replace("]", ")")
    return table.Row(marker.args, name, marker.kwargs["moment"], True, verdict, item.stash.get(_TIMES, []))
