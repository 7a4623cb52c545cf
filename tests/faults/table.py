"""The table of a run of the fault suite: a row for each test and fault, and what of F01 to F59 is covered.

Printed at the end of every run of `tests/faults`, and written into the file that `FAULTS_TABLE` names (docs/faults.md),
between the two markers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.catalogue import FAULTS, NOT_MADE
from tests.faults.checker import Verdict

BEGIN, END = "<!-- made by `make faults` -->", "<!-- end of what `make faults` made -->"
Measured = Callable[[str, float, float], None]
HEAD = ("fault", "what", "moment", "submitted", "acknowledged", "lost", "twice", "recovery")


@dataclass
class Row:
    """What one test said about its faults. `verdict` is None where the test has no clients."""

    faults: tuple[str, ...]
    test: str
    moment: str
    passed: bool = True
    verdict: Verdict | None = None
    times: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        what = self.test.removeprefix("test_").replace("_", " ")
        return (" ".join(self.faults), what if self.passed else f"FAILED: {what}", self.moment, *self._numbers())

    def _numbers(self) -> tuple[str, ...]:
        times = "; ".join(self.times)
        if self.verdict is None:
            return "-", "-", "-", "-", times
        seen = self.verdict
        numbers = (seen.attempted, seen.acknowledged, seen.lost, seen.duplicated)
        return *map(str, numbers), times or f"{seen.drained:.1f} s to the last job"


def lines(rows: Iterable[Row]) -> list[str]:
    """The table as Markdown, then one line for what is covered."""
    ordered = sorted(rows, key=lambda row: (row.faults, row.test))
    table = [_line(HEAD), _line("---" for _ in HEAD), *(_line(row.cells()) for row in ordered)]
    covered = covered_by(ordered)
    lost = sum(row.verdict.lost for row in ordered if row.verdict)
    twice = sum(row.verdict.duplicated for row in ordered if row.verdict)
    return [*table, "", f"{len(covered)} of {len(FAULTS)} faults covered, {lost} jobs lost, {twice} recorded twice."]


def covered_by(rows: Iterable[Row]) -> set[str]:
    """The faults of which every test has passed, and there is one."""
    made = list(rows)
    return {fault for row in made for fault in row.faults} - {
        fault for row in made if not row.passed for fault in row.faults
    }


def write(path: Path, rows: list[Row]) -> None:
    """Put the table, and the list of what is not covered, between the markers."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    missing = [fault for fault in FAULTS if fault not in covered_by(rows)]
    reasons = [f"- **{fault}** {FAULTS[fault]}: {NOT_MADE.get(fault, 'its test did not pass')}" for fault in missing]
    made = [*lines(rows), "", "Not covered:", "", *reasons]
    path.write_text("\n".join([f"{before}{BEGIN}", "", *made, "", f"{END}{after}"]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
