"""The log of a process: a line is one JSON object, whoever writes it; what cannot be written is dropped."""

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
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["number"] for line in lines if line["event"] == "line"] == list(range(LINES))
    theirs = [line["message"] for line in lines if line["event"] == "library"]
    assert theirs == [f"line {number}" for number in range(LINES)]


OUTAGE = r"""
import asyncio, gc, logging, threading, warnings
from accepted import logs
from accepted.errors import LedgerUnavailable

logs.configure()
logs.REPEAT_SECONDS = 1.0

def fail(text):
    raise ConnectionError(f"{text} at amqp://guest:hunter2@127.0.0.1/")

async def trouble():
    with logs._repeats._lock:  # as when the garbage collector destroys a failed task in the middle of a line
        logging.getLogger("collected").error("within another line")
    for number in range(50):
        logs.outage("consumer_lost", ConnectionError("refused"), queue="a", job_id=number)
        logs.outage("consumer_lost", ConnectionError("refused"), queue="b")
        logs.outage("consumer_lost", LedgerUnavailable("wrong password"), queue="a")
        for library in ("aiormq.connection", "uvicorn.error"):
            try:
                fail(f"lost {object()}")
            except ConnectionError:
                logging.getLogger(library).exception("a traceback\nof <%r>", object())
        future = asyncio.get_running_loop().create_future()
        future.set_exception(ConnectionError("nobody asks for this one"))
    del future
    gc.collect()
    thread = threading.Thread(target=fail, args=("in a thread",))
    thread.start()
    thread.join()
    warnings.warn("an old call")
    await asyncio.sleep(1.2)  # the time for which lines are counted
    logs.outage("consumer_lost", ConnectionError("refused"), queue="b")

asyncio.run(trouble())
fail("at the end")
"""


async def test_an_outage_is_one_line_a_kind_and_the_repeated_ones_are_counted(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        done = await asyncio.to_thread(_run, file.fileno(), OUTAGE)
    assert done.returncode == 1
    text = (tmp_path / "log").read_text()
    assert "hunter2" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    lost = [line for line in lines if line["event"] == "consumer_lost"]
    assert [(line["queue"], line["error"], line.get("repeated")) for line in lost] == [
        ("a", "ConnectionError: refused", None),
        ("b", "ConnectionError: refused", None),
        ("a", "LedgerUnavailable: wrong password", None),
        ("a", "ConnectionError: refused", 49),
        ("b", "ConnectionError: refused", 49),
        ("a", "LedgerUnavailable: wrong password", 49),
        ("b", "ConnectionError: refused", 1),
    ], "the last repeats are told at the end of the process"
    theirs = [line for line in lines if line["event"] == "library"]
    counts = {name: [line.get("repeated") for line in theirs if line["logger"] == name] for name in LOGGERS}
    assert counts == {
        "aiormq.connection": [None, 49],
        "uvicorn.error": [None, 49],
        "asyncio": [None, 49],
        "py.warnings": [None],
        "python": [None, None],
    }
    assert "hunter2" not in text
    assert [line["level"] for line in theirs if line["logger"] == "python"] == ["error", "error"]
    assert all(line["where"][-1].endswith("fail") for line in theirs if line["logger"] != "asyncio" and "error" in line)


LOGGERS = ("aiormq.connection", "uvicorn.error", "asyncio", "py.warnings", "python")


def _run(descriptor: int, program: str = PROGRAM) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=descriptor, text=True, timeout=60
    )
