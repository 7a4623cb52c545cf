"""The runbook (docs/runbook.md) as a page: the overview leads to its section about each kind of problem."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.responses import Response

from accepted.dashboard.entrance import Visitor
from accepted.dashboard.routing import pages
from accepted.dashboard.texts import marked

router = pages()

_PACKAGE = Path(__file__).parents[2]
_IN_WHEEL, _IN_SOURCES = _PACKAGE / "dashboard" / "runbook.md", _PACKAGE.parents[1] / "docs" / "runbook.md"
RUNBOOK = _IN_WHEEL if _IN_WHEEL.is_file() else _IN_SOURCES
"""pyproject.toml puts it into the package when a wheel is built."""

_MARKED = re.compile(r"\*\*(?P<bold>[^*]+)\*\*|`(?P<code>[^`]+)`|\[(?P<link>[^\]]+)\]\([^)]*\)")
"""What of Markdown the runbook uses within a paragraph. Links lead to other files of docs, which are not served."""


class Section(NamedTuple):
    """`paragraphs` are pieces of text, each with its kind: `bold`, `code`, `link`, or empty."""

    name: str
    paragraphs: list[list[tuple[str, str]]]


@router.get("/ui/runbook")
async def runbook(visit: Visitor) -> Response:
    return visit.show("runbook.html", "Runbook", sections=sections())


@cache
def sections() -> list[Section]:
    """One for each kind of problem; the first is about all of them."""
    parts = re.split(r"^#+ ", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [_section(*part.split("\n", 1)) for part in parts]


def _section(name: str, text: str) -> Section:
    return Section(name, [marked(_MARKED, one) for one in text.split("\n\n") if one.strip()])
