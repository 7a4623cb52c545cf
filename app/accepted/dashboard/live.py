"""Pages that are left open: one stream each says that something has changed, and the page reads itself again.

One ticker for each process asks the ledger one question while any page is open, however many are. It tells two kinds of
changes apart: of the `state` (who works, what is paused or held, what is late), after which a page reads itself again
at once, and of the `figures`, after which it does so at leisure.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from starlette.responses import Response, StreamingResponse

from accepted.api.state import State
from accepted.dashboard.entrance import Visitor
from accepted.dashboard.routing import pages
from accepted.dashboard.visit import HEADERS, Visit
from accepted.errors import LedgerUnavailable, Unauthenticated
from accepted.storage.db.engine import reading
from accepted.storage.monitoring import changes
from accepted.storage.monitoring.changes import Versions

router = pages()

EVERY = 2.0
"""Seconds between two questions."""

LONGEST = 3600.0
"""Seconds after which a stream ends. The browser opens another one, if the session still lasts."""

SILENCE = 15.0
"""Seconds after which a comment is sent, so that no proxy closes the stream as idle."""

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
        before: Versions | None = None
        while self._listening and not state.watcher.closed:
            now = await _versions(state)
            if before is not None:
                self._tell(before, now)
            before = now
            await asyncio.sleep(EVERY)

    def _tell(self, before: Versions, now: Versions) -> None:
        if (said := _changed(before, now)) is not None:
            for heard in self._listening:
                if heard.empty():
                    heard.put_nowait(said)


@router.get("/ui/events")
async def events(visit: Visitor) -> Response:
    return StreamingResponse(_stream(visit), media_type="text/event-stream", headers=HEADERS)


async def _stream(visit: Visit) -> AsyncIterator[bytes]:
    """Events until the process stops, the session's key is revoked, or the stream is old."""
    ticker: Ticker = visit.request.app.state.dashboard.ticker
    loop = asyncio.get_running_loop()
    ends = loop.time() + LONGEST
    yield OPEN
    with ticker.listen(visit.state) as heard:
        while loop.time() < ends and not visit.state.watcher.closed:
            try:
                said = await _next(visit, heard)
            except Unauthenticated:
                return
            yield b": waiting\n\n" if said is None else b"event: %b\ndata: {}\n\n" % said.encode()


async def _next(visit: Visit, heard: "asyncio.Queue[str]") -> str | None:
    """What has changed; None after a while in which nothing has. Raises `Unauthenticated`."""
    hashed = visit.key_hash
    async with contextlib.nullcontext() if hashed is None else visit.state.keys.unless_revoked(hashed):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE):
                return await heard.get()
    return None


async def _versions(state: State) -> Versions:
    try:
        async with reading(state.engine) as conn:
            return await changes.versions(conn, state.settings.lease_ttl)
    except LedgerUnavailable:
        return changes.UNKNOWN


def _changed(before: Versions, now: Versions) -> str | None:
    if before.state != now.state:
        return "state"
    return "figures" if before.figures != now.figures else None
