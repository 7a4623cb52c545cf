"""Named points at which a child process of ours dies, waits, or is misled. The product holds no line of this.

Python imports a module of this name at start when its directory is on PYTHONPATH. The variables of the child:

    FAILPOINT         a name of `POINTS`
    FAILPOINT_FILE    made by whoever gets there first; it alone dies (or waits), later ones pass
    FAILPOINT_WAIT    when set, the first waits there until this file is there too, instead of dying
    CLOCK_OFFSET      seconds by which this process's wall clock is wrong
    FALSE_NAMES       names under `.test` resolve as `_lie` has it while this file is there, then to 127.0.0.1
"""

import asyncio
import contextlib
import importlib
import os
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

KILLED = 9
BROKEN = 70
LOOK = 0.02  # seconds between looks for the file that ends a wait
SLOW_NAME = 30.0  # seconds


async def _reach() -> None:
    """The first to get here dies on the spot, or waits; everybody else passes."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.environ["FAILPOINT_FILE"], os.O_CREAT | os.O_EXCL))
        wait = os.environ.get("FAILPOINT_WAIT")
        if wait is None:
            os._exit(KILLED)
        while not _there(wait):  # noqa: ASYNC110 - another process makes the file
            await asyncio.sleep(LOOK)


def _there(path: str) -> bool:
    return os.path.exists(path)


class _Commit:
    """A connection whose COMMIT is the point."""

    def __init__(self, connection: Any, before: bool) -> None:
        self._connection, self._before = connection, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def commit(self) -> None:
        if self._before:
            await _reach()
        await self._connection.commit()
        if not self._before:
            await _reach()


def commit(module: str, *, before: bool) -> None:
    """The point is just before or just after every COMMIT on the connection that this module keeps to itself."""

    class Direct(importlib.import_module(module).Direct):  # type: ignore[misc]
        @contextlib.asynccontextmanager
        async def transaction(self) -> AsyncIterator[_Commit]:
            async with super().transaction() as connection:
                yield _Commit(connection, before)

    importlib.import_module(module).Direct = Direct


def opening(module: str) -> None:
    """The point is the moment before this module opens a transaction."""
    owner = importlib.import_module(module)
    original = owner.transaction

    @contextlib.asynccontextmanager
    async def transaction(engine: Any) -> AsyncIterator[Any]:
        await _reach()
        async with original(engine) as connection:
            yield connection

    owner.transaction = transaction


def calling(module: str, name: str, *, before: bool = True) -> None:
    """The point is the moment before, or just after, this coroutine function of the module runs."""
    owner = importlib.import_module(module)
    original = getattr(owner, name)

    async def called(*args: Any, **kwargs: Any) -> Any:
        if before:
            await _reach()
        result = await original(*args, **kwargs)
        if not before:
            await _reach()
        return result

    setattr(owner, name, called)


POINTS: dict[str, Callable[[], None]] = {
    "api before COMMIT": lambda: calling(
        "accepted.storage.jobs.submission", "insert"
    ),  # a statement that commits itself
    "api after COMMIT": lambda: calling("accepted.storage.jobs.submission", "insert", before=False),
    "api before the answer": lambda: calling("accepted.api.jobs.submission", "_answer"),
    "api after the confirm": lambda: opening("accepted.services.jobs.publishing"),
    "relay after taking": lambda: calling("accepted_worker.scheduler.relay", "publish"),
    "relay after the confirm": lambda: opening("accepted.services.jobs.publishing"),
    "worker before the claim's COMMIT": lambda: calling("accepted.storage.attempts.claims", "claim_refs"),
    "worker after the claim's COMMIT": lambda: calling("accepted.storage.attempts.claims", "claim_refs", before=False),
    "worker after the effect": lambda: calling("accepted.storage.attempts.completion", "apply"),
    "worker after a lone outcome": lambda: calling("accepted.storage.attempts.completion", "apply", before=False),
    "worker before the outcome's COMMIT": lambda: commit("accepted.services.jobs.completion", before=True),
    "worker after the outcome's COMMIT": lambda: commit("accepted.services.jobs.completion", before=False),
    "rescuer between finding and ending": lambda: calling("accepted_worker.scheduler.ending", "settle"),
}


def _mislead_clock(offset: float) -> None:
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() + offset
    time.time_ns = lambda: nanoseconds() + int(offset * 1e9)


def _mislead_names(while_there: str) -> None:
    honest = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name.endswith(".test"):
            host = _lie(name) if _there(while_there) else "127.0.0.1"
        return honest(host, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


def _lie(name: str) -> str:
    if name.startswith("servfail"):
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")
    if name.startswith("nxdomain"):
        raise socket.gaierror(socket.EAI_NONAME, "name or service not known")
    if name.startswith("slow"):
        time.sleep(SLOW_NAME)
    return "10.0.0.1" if name.startswith("private") else "127.0.0.1"


try:
    if name := os.environ.get("FAILPOINT"):
        POINTS[name]()
    if offset := os.environ.get("CLOCK_OFFSET"):
        _mislead_clock(float(offset))
    if names := os.environ.get("FALSE_NAMES"):
        _mislead_names(names)
except Exception:  # Python would print it and go on without the point, and the test would prove nothing
    traceback.print_exc(file=sys.stderr)
    os._exit(BROKEN)
