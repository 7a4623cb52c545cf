"""What the pages name is there: commands, options, operations, settings, files, functions, targets of make, links."""

import re
import shlex
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import typer
from markdown_it import MarkdownIt
from typer.core import TyperGroup

from accepted.api.app import create_app
from accepted.cli.main import app
from accepted.environment import OF_CLIENTS, PREFIX
from accepted.settings import Settings
from tests.support.pages import blocks, pages
from tests.support.service.processes import ROOT

TEXTS = {page: (ROOT / page).read_text() for page in pages()}
MARKDOWN = MarkdownIt("commonmark").enable("table")
INLINE = [(page, each) for page in pages() for token in MARKDOWN.parse(TEXTS[page]) for each in token.children or []]
CODE = [(page, " ".join(each.content.split())) for page, each in INLINE if each.type == "code_inline"]
COMMANDS = [
    (str(block), command) for page in pages() for block in blocks(page) if block.language in ("sh", "console")
    for command in block.commands()
]  # fmt: skip
ACCEPTED: Any = typer.main.get_command(app)
FOLDERS = ("app", "workers", "tests", "docs", "deploy", "examples", "alembic")
URL = re.compile(r"(?:http://127\.0\.0\.1:8000|\$URL)(/.*)")
NO_COMMAND = "accepted job <id>"  # the name of a connection


def test_commands_and_their_options() -> None:
    lines = [(page, code) for page, code in CODE if code.removeprefix(".venv/bin/").startswith("accepted ")]
    lines += [(place, part) for place, command in COMMANDS for part in calls(command)]
    assert len(lines) > 100
    assert not [(place, line, wrong) for place, line in lines if line != NO_COMMAND and (wrong := unknown(line))]


def calls(command: str) -> list[str]:
    """The calls of `accepted` in a command of a shell."""
    words = list(shlex.shlex(command, posix=True, punctuation_chars=True))
    starts = [at for at, word in enumerate(words) if re.fullmatch(r"(\S*/)?accepted", word)]
    ends = [at for at, word in enumerate(words) if word in ("|", "&&", ";")] + [len(words)]
    return [shlex.join(words[at : min(end for end in ends if end > at)]) for at in starts]


def unknown(line: str) -> list[str]:
    """The words of a call of `accepted` that are no command or option, and the options that it cannot do without."""
    command = ACCEPTED
    found = []
    for word in line.split()[1:]:
        if word.startswith("--"):
            options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            found += [word] * (word.partition("=")[0] not in options)
        elif isinstance(command, TyperGroup) and word != "…":
            found += [each for each in word.split("|") if each not in command.commands]
            command = command.commands.get(word.partition("|")[0], command)
    needed = {parameter.opts[0] for parameter in command.params if parameter.required and "--" in parameter.opts[0]}
    return found + sorted(needed - set(line.split())) * ("--" in line)


def test_operations_and_their_parameters() -> None:
    """Of a URL in a command, the method is not looked at."""
    document = create_app(Settings(database_url="postgresql://127.0.0.1/nothing")).openapi()
    named = [(page, *code.split(" ", 1)) for page, code in CODE if re.match(r"(GET|POST|PUT|PATCH|DELETE) /", code)]
    words = [(place, word) for place, command in COMMANDS for word in shlex.split(command, comments=True)]
    named += [(place, "", found[1]) for place, word in words if (found := URL.fullmatch(word))]
    assert len(named) > 150
    assert not [each for each in named if not is_operation(document["paths"], each[1].lower(), each[2])]


def is_operation(paths: dict[str, Any], method: str, url: str) -> bool:
    path, asked = urlsplit(url).path, {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    fitting = [each for template, each in paths.items() if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)]
    chosen = [operation for each in fitting for name, operation in each.items() if method in ("", name)]
    taken = [{one["name"] for one in operation.get("parameters", [])} for operation in chosen]
    return any(asked <= names for names in taken) or path in ("/", "/problems")  # pages for people


def test_settings() -> None:
    known = {f"{PREFIX}{name}".upper() for name in [*Settings.model_fields, *OF_CLIENTS]}
    found = {(page, name) for page, text in TEXTS.items() for name in re.findall(rf"{PREFIX}[A-Z\d_]*[A-Z\d]", text)}
    assert not {(page, name) for page, name in found if name not in known}


def test_files_and_what_is_in_them() -> None:
    """As in "`domain/job.py` (`Job`)": one page, as it says itself, gives paths in app/accepted."""
    files = [(page, code) for page, code in CODE if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", code)]
    files += [(page, code) for page, code in CODE if page == "docs/life-of-a-job.md" and re.fullmatch(r"\w+/\S*", code)]
    assert len(files) > 200
    assert not [(page, file) for page, file in files if not any(each.exists() for each in places(file))]
    codes = [(file.content, between.content, name.content) for (_, file), (_, between), (_, name) in triples(INLINE)]
    named = [(file, name) for file, between, name in codes if file.endswith(".py") and between in (", ", " (")]
    holds = [(file, name.rpartition(".")[2]) for file, name in named if re.fullmatch(r"[A-Za-z_.]+", name)]
    assert len(holds) > 40
    assert not [(file, name) for file, name in holds if not defines(file, name)]


def triples(items: list[Any]) -> Iterable[tuple[Any, Any, Any]]:
    return zip(items, items[1:], items[2:], strict=False)


def places(file: str) -> list[Path]:
    return [ROOT / file, ROOT / "app" / "accepted" / file]


def defines(file: str, name: str) -> bool:
    """Where the module is one of the repository."""
    texts = [each.read_text() for each in places(file) if each.exists()]
    return not texts or bool(re.search(rf"(def|class) {name}\b|^{name}\b.*= ", texts[0], re.M))


def test_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z\d-]+):", (ROOT / "Makefile").read_text(), re.M))
    found = {name for _, code in CODE + COMMANDS for name in re.findall(r"\bmake ([a-z][a-z\d-]*)", code)}
    assert len(found) > 10
    assert found <= targets


def test_links() -> None:
    """Within the repository: file and heading."""
    links = [(page, str(each.attrs.get("href") or each.attrs.get("src") or "")) for page, each in INLINE]
    links = [(page, to) for page, to in links if to and not re.match(r"\w+:", to)]
    assert len(links) > 250
    assert not [(page, to) for page, to in links if not leads_somewhere(page, to)]


def leads_somewhere(page: str, to: str) -> bool:
    file, _, anchor = to.partition("#")
    target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
    return target.exists() and (not anchor or anchor in anchors(target))


@cache
def anchors(page: Path) -> set[str]:
    """Those of the headings, as GitHub makes them."""
    headings = [token for before, token in pairwise(MARKDOWN.parse(page.read_text())) if before.type == "heading_open"]
    shown = ["".join(each.content for each in token.children or []) for token in headings]
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in shown}
