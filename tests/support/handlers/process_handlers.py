"""Job types that run in processes, and do there whatever a handler can do. Served through ACCEPTED_HANDLERS."""

import asyncio
import ctypes
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from accepted import Context, InvalidJob, RateLimited, Retry, job


class Deed(BaseModel):
    """What to do; `arg` is its argument."""

    model_config = ConfigDict(extra="forbid")

    do: str
    arg: Any = None


@job("deed", queue="deeds", timeout=60, retry=Retry(max_attempts=5, schedule=(0.1,), jitter=0), runs_in="process")
def deed(payload: Deed, ctx: Context) -> Any:
    """Does it, in its process."""
    return DEEDS[payload.do](payload.arg, ctx)


@job("deed.async", queue="deeds", runs_in="process")
async def async_deed(payload: Deed, ctx: Context) -> Any:
    """Waits, calls out, and says so."""
    await asyncio.sleep(0.01)
    if payload.do == "call":
        answer = await ctx.egress.send("GET", payload.arg, {}, b"", timeout=5, max_bytes=100)
        return {"status": answer.status_code}
    if payload.do == "give up":
        try:
            async with asyncio.timeout(0.2):
                await asyncio.to_thread(time.sleep, payload.arg)
        except TimeoutError:
            return {"pid": os.getpid(), "went": "on"}
    return {"pid": os.getpid(), "thread": await asyncio.to_thread(int)}


def _compute(seconds: float, ctx: Context) -> Any:
    """Python code that never lets go of the processor."""
    until = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < until:
        rounds += 1
    return {"rounds": rounds, "pid": os.getpid()}


def _hold_the_lock(path: str, ctx: Context) -> Any:
    """Native code that keeps the interpreter's lock for a minute, beside a program that this has started."""
    other = subprocess.Popen(["sleep", "60"])
    Path(path).write_text(f"{os.getpid()} {other.pid}")
    ctypes.PyDLL(None).sleep(60)


def _fail_beside_forks(_: Any, ctx: Context) -> Any:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.apply_async(time.sleep, (60,))
        time.sleep(0.3)  # for one of them to be at it
        raise ValueError("bad data")


def _raise_in_a_fork(seconds: float, ctx: Context) -> Any:
    """And compute on meanwhile."""
    if os.fork() == 0:
        raise ValueError("in the fork")
    return _compute(seconds, ctx)


def _speak_in_a_fork(_: Any, ctx: Context) -> Any:
    """What a fork says of progress, and what the tools are to it."""
    with multiprocessing.get_context("fork").Pool(1, _keep, (ctx,)) as pool:
        return [pool.apply(_progress_of_kept), *(pool.apply(_raised_by_kept, (tool,)) for tool in ("step", "results"))]


def _keep(ctx: Context) -> None:
    global _context
    _context = ctx


def _progress_of_kept() -> None:
    _context.progress(66, "not of this process")


def _raised_by_kept(tool: str) -> str:
    try:
        _context.step("step", int) if tool == "step" else _context.results
    except InvalidJob as error:
        return str(error)


def _stop_a_fork(_: Any, ctx: Context) -> Any:
    """What ended a fork that is asked to stop before it has run a line."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _leave_a_program() -> int:
    return subprocess.Popen(["sleep", "37"]).pid


def _leave_a_program_of_its_own_session() -> int:
    return subprocess.Popen(["sleep", "0.5"], start_new_session=True).pid


def _leave_an_orphan() -> int:
    return int(subprocess.check_output("sleep 37 >/dev/null & echo $!", shell=True))


def _leave_a_fork() -> int:
    if pid := os.fork():
        return pid
    time.sleep(37)
    os._exit(0)


def _leave_a_thread() -> int:
    threading.Thread(target=time.sleep, args=(37,), daemon=True).start()
    return os.getpid()


def _leave_nothing() -> int:
    """What it has started is over, though nobody has asked how, or about to be."""
    threading.Thread(target=time.sleep, args=(0.02,)).start()
    ended = subprocess.Popen(["sleep", "37"])
    ended.kill()
    _kept_programs.append(ended)
    return ended.pid


def _exit_slowly(code: int, ctx: Context) -> Any:
    """The pipe is closed a moment before the end, as it is while an interpreter ends."""
    os.closerange(3, 4096)
    time.sleep(0.05)
    os._exit(code)


def _raise(name: str, ctx: Context) -> Any:
    odd = RateLimited("slow")
    odd.retry_after = timedelta(seconds=5)  # type: ignore[assignment]
    errors = {
        "limited": RateLimited("slow down", retry_after=7),
        "value": ValueError("bad \ud800 value"),
        "odd attribute": odd,
        "interrupting": Interrupting(),
        "not to be formatted": SyntaxError("x", ("f", 1, "off", "text")),
    }
    raise errors[name]


class Interrupting(Exception):
    """Cannot be written down."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


def _report(parts: list[float], ctx: Any) -> Any:
    for percent in parts:
        ctx.progress(percent, f"{percent} %")


def _report_all_the_time(seconds: float, ctx: Context) -> Any:
    said, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        said += 1
        ctx.progress(said % 100, str(said))
    return said


def _report_and_compute(path: str, ctx: Context) -> Any:
    """Says two things at once, and then nothing more until it may return."""
    ctx.progress(1)
    ctx.progress(2)
    while not Path(path).exists():
        time.sleep(0.01)


def _grow(megabytes: int, ctx: Context) -> Any:
    _kept.append(b"x" * megabytes * 2**20)
    return {"pid": os.getpid()}


def _allocate(share: float, ctx: Context) -> Any:
    """Room for so much of the machine's memory, without touching it."""
    size = int(share * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


_kept: list[bytes] = []
_context: Context
_kept_programs: list[subprocess.Popen[bytes]] = []

LEAVERS = {
    "program": _leave_a_program,
    "program of its own session": _leave_a_program_of_its_own_session,
    "orphan": _leave_an_orphan,
    "fork": _leave_a_fork,
    "thread": _leave_a_thread,
    "nothing": _leave_nothing,
}

DEEDS = {
    "compute": _compute,
    "exit": lambda code, ctx: os._exit(code),
    "leave": lambda what, ctx: {"pid": os.getpid(), "left": LEAVERS[what]()},
    "exit slowly": _exit_slowly,
    "sys.exit": lambda code, ctx: sys.exit(code),
    "signal": lambda number, ctx: os.kill(os.getpid(), number),
    "close": lambda _, ctx: os.closerange(3, 4096) or time.sleep(60),
    "fail beside forks": _fail_beside_forks,
    "raise in a fork": _raise_in_a_fork,
    "speak in a fork": _speak_in_a_fork,
    "stop a fork": _stop_a_fork,
    "hold": _hold_the_lock,
    "raise": _raise,
    "report": _report,
    "report all the time": _report_all_the_time,
    "report and compute": _report_and_compute,
    "grow": _grow,
    "allocate": _allocate,
    "print": lambda text, ctx: print(text),
    "result": lambda size, ctx: "x" * size,
    "unfit": lambda _, ctx: object(),
    "pid": lambda _, ctx: {"pid": os.getpid(), "nice": os.nice(0), "attempt": ctx.job.attempt},
}
