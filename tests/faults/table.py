"""The table of a run of the fault suite: a row for each test and fault, and what of the fault list is covered.

Printed at the end of every run of `tests/faults`, and written into the file that `FAULTS_TABLE` names (docs/faults.md),
between the two markers, with the rows of `tests/harm`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

from tests.faults.catalogue import FAULTS, NOT_MADE
from tests.faults.checker import Verdict

BEGIN, END = "<!-- made by `make faults` -->", "<!-- end of what `make faults` made -->"
Measured = Callable[[str, float, float], None]
HEAD = ("fault", "what", "moment", "accepted", "lost", "twice", "last job")
MAX_LINE = 120
"""Characters of a line of the docs."""


@dataclass
class Row:
    """What one test said about its faults. `verdict` is None where the test has no clients."""

    faults: tuple[str, ...]
    test: str
    moment: str
    passed: bool = True
    verdict: Verdict | None = None
    times: list[str] = field(default_factory=list)

    @property
    def what(self) -> str:
        name = self.test.removeprefix("test_").replace("_", " ")
        return name if self.passed else f"FAILED: {name}"

    def cells(self) -> tuple[str, ...]:
        return (" ".join(self.faults), self.what, self.moment, *self._numbers())

    def measured(self) -> str:
        """What the test measured, as an item of a list."""
        return fill(
            f"- **{' '.join(self.faults)}** {self.what}: {'; '.join(self.times)}", MAX_LINE, subsequent_indent="  "
        )

    def _numbers(self) -> tuple[str, ...]:
        if self.verdict is None:
            return "-", "-", "-", "-"
        seen = self.verdict
        accepted = f"{seen.acknowledged} of {seen.attempted}"
        return accepted, str(seen.lost), str(seen.duplicated), f"{seen.drained:.1f} s"


def lines(rows: Iterable[Row]) -> list[str]:
    """What the tests measured and the table, as Markdown; the last line says what is covered."""
    ordered = sorted(rows, key=lambda row: (row.faults, row.test))
    table = [_line(HEAD), _line("---" for _ in HEAD), *(_line(row.cells()) for row in ordered)]
    covered = covered_by(ordered)
    lost = sum(row.verdict.lost for row in ordered if row.verdict)
    twice = sum(row.verdict.duplicated for row in ordered if row.verdict)
    total = f"{len(covered)} of {len(FAULTS)} faults covered, {lost} jobs lost, {twice} recorded twice."
    return ["Measured:", "", *(row.measured() for row in ordered if row.times), "", *table, "", total]


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
    reasons = [
        fill(
            f"- **{fault}** {FAULTS[fault]}: {NOT_MADE.get(fault, 'its test did not pass')}",
            MAX_LINE,
            subsequent_indent="  ",
        )
        for fault in missing
    ]
    made = [*lines(rows), "", "Not covered:", "", *reasons]
    path.write_text("\n".join([f"{before}{BEGIN}", "", *made, "", f"{END}{after}"]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
