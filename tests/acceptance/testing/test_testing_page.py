"""The tests in docs/testing.md pass as they stand there, in a pytest of their own."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.pages import blocks, blocks_to_run

FILES = [*blocks_to_run("docs/testing.md"), *(block for block in blocks("docs/testing.md") if block.language == "ini")]


def test_the_examples_of_the_page(tmp_path: Path) -> None:
    """Each block is a file; its first line names it."""
    for block in FILES:
        assert block.file, block
        (tmp_path / block.file).write_text(block.text)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) == sum(block.text.count("\ndef test_") for block in FILES), ran.stdout
