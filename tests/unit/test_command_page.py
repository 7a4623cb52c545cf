"""docs/settings.md names every command and every option."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from accepted.cli.main import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
SECTION = PAGE.read_text().partition("## On the command line")[2]


def commands(command: object, name: str = "accepted") -> Iterator[tuple[str, TyperCommand]]:
    if isinstance(command, TyperGroup):
        for each, below in command.commands.items():
            yield from commands(below, f"{name} {each}")
    else:
        assert isinstance(command, TyperCommand)
        yield name, command


@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(*each, id=each[0]) for each in commands(typer.main.get_command(app))]
)
def test_the_page_names_it(name: str, command: TyperCommand) -> None:
    row = next((row for row in SECTION.splitlines() if row.startswith(f"| `{' '.join(name.split()[:2])}`")), "")
    assert row
    assert all(word in row for word in name.split())
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert not {option for option in options if option not in SECTION}
