"""Logs that cannot be written: the process goes on, and what could not be written is dropped."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.service.processes import ROOT

LINES = 2000
PIPE = 64 * 1024  # bytes that a pipe holds; the lines are more
PROGRAM = f"""
import asyncio, logging, structlog
from accepted import logs

logs.configure()

async def talk():
    for number in range({LINES}):
        structlog.get_logger("test").info("line", number=number)
        logging.getLogger("library").error("line %d", number)
        await asyncio.sleep(0)
    print("done")

asyncio.run(talk())
"""


@contextmanager
def full_disk() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def unread_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    yield writer
    assert len(os.read(reader, PIPE * 2)) > PIPE / 2
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("log", [full_disk, unread_pipe])
async def test_a_log_that_cannot_be_written_to_stops_nobody(log: "type") -> None:
    with log() as descriptor:
        done = await asyncio.to_thread(_run, descriptor)
    assert (done.returncode, done.stdout.strip()) == (0, "done")


async def test_a_log_that_can_be_written_to_has_every_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        done = await asyncio.to_thread(_run, file.fileno())
    assert done.returncode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    ours = [json.loads(line)["number"] for line in lines if line.startswith("{")]
    assert ours == list(range(LINES))
    assert sum(line.startswith("ERROR library line ") for line in lines) == LINES


def _run(descriptor: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=descriptor, text=True, timeout=60
    )
