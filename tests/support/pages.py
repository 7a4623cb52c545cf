"""The blocks of the pages, for the tests that run them and for the test that misses none.

A block that no test can run stands below a line `<!-- not run: reason -->`, which is invisible in the rendered page.
"""

import re
import shlex
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.service.processes import ROOT

TO_RUN = {"python", "sh", "console", "sql"}
"""Languages of blocks that a test runs. `sh` holds commands, `console` commands after `$ ` with what they print."""

DATA = {"json", "yaml", "toml", "ini"}
OTHER = {"text", "mermaid"}

_MARKER = re.compile(r"<!-- not run: (?=\S)(.+) -->\n?", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code. `line` is that of its first line of text; `reason` says why no test runs it, if none does."""

    page: str
    line: int
    language: str
    name: str
    """The word after the language, if there is one."""
    text: str
    reason: str = ""
    heading: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def to_run(self) -> bool:
        return self.language in TO_RUN and not self.reason

    @property
    def file(self) -> str:
        """The file that its first line names, as in `# shop.py`; else empty."""
        found = re.match(r"# (\S+\.\w+)\n", self.text)
        return found[1] if found else ""

    def commands(self) -> list[str]:
        return [command for command, _ in self.dialogue()]

    def dialogue(self) -> list[tuple[str, str]]:
        """Each command, and what is shown below it; a command goes on after a backslash and within quotes."""
        assert self.language in ("sh", "console"), f"{self}: no commands"
        if self.language == "sh":
            return [(command, "") for command in _joined(self.text.splitlines())]
        shown = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        first = [_joined(one.splitlines())[0] for one in shown]
        return [(command, one.removeprefix(command)) for command, one in zip(first, shown, strict=True)]


def pages() -> list[str]:
    """Paths in the repository, without the decisions, which tell of the past."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found += [path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.md")]
    names = sorted(str(path.relative_to(ROOT)) for path in found)
    return [name for name in names if not name.startswith("docs/decisions/") and "node_modules" not in name]


def blocks(page: str) -> list[Block]:
    return blocks_of((ROOT / page).read_text(), page)


def blocks_to_run(page: str) -> list[Block]:
    """What the test that calls this must run. The page is a literal: test_every_block.py looks for it."""
    return [block for block in blocks(page) if block.to_run]


def blocks_of(text: str, page: str) -> list[Block]:
    """An indented block has no language. A marker that says nothing, or stands above no block, marks nothing."""
    tokens = MarkdownIt("commonmark").parse(text)
    found, heading = [], ""
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            heading = token.content
        if token.type in ("fence", "code_block"):
            language, _, name = token.info.partition(" ")
            line = (token.map or [0])[0] + (2 if token.type == "fence" else 1)
            found.append(Block(page, line, language, name, token.content, _reason(before), heading))
    return found


def markers(text: str) -> int:
    """How many comments say, or seem to say, that a block is not run."""
    tokens = MarkdownIt("commonmark").parse(text)
    html = [one.content for token in tokens for one in (token, *(token.children or [])) if one.type.startswith("html")]
    return len([one for one in html if re.match(r"<!--\s*not run", one)])


def _reason(before: Token | None) -> str:
    found = _MARKER.fullmatch(before.content) if before is not None and before.type == "html_block" else None
    return found[1] if found else ""


def _joined(lines: list[str]) -> list[str]:
    commands, begun = [], ""
    for line in lines:
        begun += line
        if begun.endswith(("\\", "|")) or not _is_whole(begun):
            begun += "\n"
        elif begun.strip() and not begun.startswith("#"):
            commands.append(begun)
            begun = ""
        else:
            begun = ""
    return commands


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
