"""The table of a drill, printed and written into docs/drill.md."""

from collections.abc import Mapping
from pathlib import Path

from tests.drill.faults import FAULTS, Fault
from tests.drill.stage import Named
from tests.support.service.processes import ROOT

BEGIN, END = "<!-- made by `make drill` -->", "<!-- end of what `make drill` made -->"
HEAD = ("fault", "injected", "named by", "as", "after", "in words")


def lines(found: Mapping[str, list[Named]]) -> list[str]:
    """A row for each fault and each answer that named it."""
    rows = [_row(fault, one) for fault in FAULTS for one in found.get(fault.name, ())]
    return [_line(HEAD), _line(["---"] * len(HEAD)), *map(_line, rows)]


def write(path: Path, found: Mapping[str, list[Named]]) -> None:
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text("\n".join([f"{before}{BEGIN}", "", *lines(found), "", f"{END}{after}"]))


def _row(fault: Fault, one: Named) -> list[str]:
    sentence = one.sentence.replace("|", "\\|").replace(f"{ROOT}/", "")
    return [fault.name, fault.injected, f"`{one.by}`", f"`{one.code}`", f"{one.after:.1f} s", sentence]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
