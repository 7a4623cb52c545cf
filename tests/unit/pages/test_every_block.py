"""Every block of the pages has a language, and is run by a test unless its page says why not; all of them are readable.

Who adds a block to a page of which a test runs the blocks has it run, and to any other page finds it named here.
"""

import ast
import configparser
import importlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Callable, Container
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from accepted_worker.handlers.email import Email
from accepted_worker.handlers.image_thumbnail import Thumbnail
from tests.support.pages import DATA, OTHER, TO_RUN, Block, blocks, blocks_of, markers, pages
from tests.support.service.processes import ROOT

CALL = re.compile(r'blocks_to_run\("(\S+?)"\)')
RUN = {page for test in (ROOT / "tests").rglob("test_*.py") for page in CALL.findall(test.read_text())}
ALL = [block for page in pages() for block in blocks(page)]
PAYLOADS: dict[str, type[BaseModel]] = {"email.send": Email, "image.thumbnail": Thumbnail}


def faults(text: str, page: str, run: Container[str]) -> list[str]:
    """What is wrong with the blocks of a page, if tests run those of the pages in `run`."""
    found = blocks_of(text, page)
    unknown = [f"{one}: {one.language!r} is no language" for one in found if one.language not in TO_RUN | DATA | OTHER]
    left = [f"{one}: no test runs it, no `<!-- not run: reason -->`" for one in found if one.to_run and page not in run]
    idle = markers(text) - len([one for one in found if one.reason])
    return unknown + left + [f"{page}: {idle} markers without a reason, or above no block"] * bool(idle)


def test_each_is_run_or_says_why_not() -> None:
    assert not [fault for page in pages() for fault in faults((ROOT / page).read_text(), page, RUN)]
    assert set(pages()) >= RUN
    assert len([one for one in ALL if one.to_run]) > 45


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```sh\nls\n```\n", "p:2: no test"),
        ("- in a list\n\n  ```python\n  1\n  ```\n", "p:4: no test"),
        ("<!-- not run: no cloud here -->\n\nBut:\n\n```sh\nls\n```\n", "p:6: no test"),
        ("<!-- not run: -->\n```sh\nls\n```\n", "p:3: no test"),
        ("<!-- not run -->\n```text\nls\n```\n", "p: 1 markers"),
        ("Indented:\n\n    ls\n", "p:3: ''"),
        ("```\nls\n```\n", "p:2: ''"),
        ("```bash\nls\n```\n", "p:2: 'bash'"),
    ],
)
def test_what_is_neither_is_found(text: str, wrong: str) -> None:
    assert [one for one in faults(text, "p", {"q"}) if one.startswith(wrong)]
    excused = "1. Do\n\n   <!-- not run: no cloud here -->\n   ```sh\n   ls\n   ```\n"
    assert not faults(excused, "p", set())
    assert not faults("```sh\nls\n```\n", "p", {"p"})


READERS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "yaml": yaml.safe_load,
    "toml": tomllib.loads,
    "ini": lambda text: configparser.ConfigParser().read_string(text),
    "python": ast.parse,
}


@pytest.mark.parametrize("block", [one for one in ALL if one.language in READERS], ids=str)
def test_what_is_shown_can_be_read(block: Block) -> None:
    """What a program imports is there; a payload of a built-in type fits its model."""
    read = READERS[block.language](block.text)
    if isinstance(read, ast.Module):
        assert not missing(read)
    if model := PAYLOADS.get(block.heading):
        model.model_validate(read)


def missing(program: ast.Module) -> list[str]:
    shown = {one.file.removesuffix(".py").replace("/", ".") for one in ALL if one.file} | {"shop"}
    found = []
    for node in ast.walk(program):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name not in shown and not is_there(one.name)]
        elif isinstance(node, ast.ImportFrom) and node.module not in shown:
            found += [f"{node.module}.{one.name}" for one in node.names if not is_there(f"{node.module}.{one.name}")]
    return found


def is_there(name: str) -> bool:
    """Of our own packages also what a module holds is looked at; others are not imported."""
    module, _, attribute = name.rpartition(".")
    if name.partition(".")[0] != "accepted":
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    if module and hasattr(importlib.import_module(module), attribute):
        return True
    return importlib.util.find_spec(name) is not None
