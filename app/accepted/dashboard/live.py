"""Pages that are left open: one stream each says that something has changed, and the page reads itself again.

One ticker for each process asks the ledger one question while any page is open, however many are. It tells two kinds of
changes apart: of the `state` (who works, what is paused or held, what is late), which is told at once, and of the
`figures`, which is told at leisure. It tells all pages in the same moment, so that they read the same, and share it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial
from uuid import UUID

from starlette.responses import Response, StreamingResponse

from accepted.api.state import State
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.routing import pages
from accepted.dashboard.visit import HEADERS, Visit
from accepted.domain.job import Job, Status
from accepted.errors import LedgerUnavailable, Unauthenticated
from accepted.storage.db.engine import reading
from accepted.storage.monitoring import changes
from accepted.storage.monitoring.changes import Versions

router = pages()

EVERY = 4.0
"""Seconds between two questions."""

OFTEN = 5.0
"""Seconds at least from what was told last to the next change of the state. A change is told once more after them:
what lasts for three seconds is a problem, and is not one yet when it begins."""

LEISURE = 36.0
"""Seconds at least from what was told last to the next change of figures. A read of the overview is 23 statements, for
all who read it: with the questions, that is less than one a second."""

LONGEST = 3600.0
"""Seconds after which a stream ends. The browser opens another one, if the session still lasts."""

SILENCE = 15.0
"""Seconds after which a comment is sent, so that no proxy closes the stream as idle."""

WHILE_RUNNING = 10.0
"""Seconds after which the page of a running job reads itself again: a new line of its log is no change of the job."""

STATE, FIGURES = "state", "figures"

OPEN = b"retry: 3000\n\n: open\n\n"


class Ticker:
    """Asks what has changed while somebody listens."""

    def __init__(self) -> None:
        self._listening: set[asyncio.Queue[str]] = set()
        self._asking: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def listen(self, state: State) -> Iterator["asyncio.Queue[str]"]:
        """What has changed from now on. One change waits at most: a page reads all of itself again."""
        heard: asyncio.Queue[str] = asyncio.Queue()
        self._listening.add(heard)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(state))
        try:
            yield heard
        finally:
            self._listening.discard(heard)

    async def _ask(self, state: State) -> None:
        loop = asyncio.get_running_loop()
        told, at, last = await _versions(state), -LEISURE, FIGURES
        while self._listening and not state.watcher.closed:
            await asyncio.sleep(EVERY)
            now = await _versions(state)
            if (said := _due(told, now, loop.time() - at, last)) is not None:
                self._tell(said)
                told, at, last = now, loop.time(), said

    def _tell(self, said: str) -> None:
        for heard in self._listening:
            if heard.empty():
                heard.put_nowait(said)


@router.get("/ui/events")
async def events(visit: Visitor, job: UUID | None = None) -> Response:
    """What has changed: of `job`, or of the service as a whole."""
    if job is None:
        changes_of = _service(visit)
    else:
        await visit.get(f"/jobs/{job}")
        changes_of = _job(visit, job)
    return StreamingResponse(_stream(visit, changes_of), media_type="text/event-stream", headers=HEADERS)


async def _stream(visit: Visit, changes_of: AsyncGenerator[str | None]) -> AsyncIterator[bytes]:
    """Events until the process stops, the session's key is revoked, the job is gone, or the stream is old."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + LONGEST
    yield OPEN
    async with contextlib.aclosing(changes_of):
        while loop.time() < ends and not visit.state.watcher.closed:
            try:
                async with _unless_revoked(visit):
                    said = await anext(changes_of, "")
            except Unauthenticated:
                return
            if said == "":
                return
            yield b": waiting\n\n" if said is None else b"event: %b\ndata: {}\n\n" % said.encode()


def _unless_revoked(visit: Visit) -> contextlib.AbstractAsyncContextManager[None]:
    hashed = visit.key_hash
    return contextlib.nullcontext() if hashed is None else visit.state.keys.unless_revoked(hashed)


async def _service(visit: Visit) -> AsyncGenerator[str | None]:
    """What the ticker says; None after a while in which nothing has changed."""
    ticker: Ticker = visit.request.app.state.dashboard.ticker
    with ticker.listen(visit.state) as heard:
        while True:
            said = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE):
                    said = await heard.get()
            yield said


async def _job(visit: Visit, job_id: UUID) -> AsyncGenerator[str | None]:
    """As `_service`, of one job. It costs no more queries than the watcher of jobs makes anyway."""
    with visit.state.watcher.watch(job_id) as watch:
        before: tuple[object, ...] | None = None
        while True:
            runs = before is not None and Status.RUNNING in before
            try:
                now = await watch.until(partial(_differs, before), WHILE_RUNNING if runs else SILENCE)
            except TimeoutError:
                yield FIGURES if runs else None
                continue
            if before is not None:
                yield STATE
            if now is None:
                return
            before = _visible(now)


def _differs(seen: tuple[object, ...] | None, job: Job) -> bool:
    return _visible(job) != seen


def _visible(job: Job) -> tuple[object, ...]:
    return job.status, job.attempt, job.progress, job.finished_at


async def _versions(state: State) -> Versions:
    try:
        async with reading(state.engine) as conn:
            return await changes.versions(conn, state.settings.lease_ttl)
    except LedgerUnavailable:
        return changes.UNKNOWN


def _due(told: Versions, now: Versions, since: float, last: str) -> str | None:
    """What is to be told now, so many seconds after pages were told of `told`, as a change of `last`."""
    if told.state != now.state and since >= OFTEN:
        return STATE
    if last == STATE and since >= OFTEN:
        return FIGURES
    return FIGURES if told.figures != now.figures and since >= LEISURE else None
