"""The loop of `accepted forward`: take, submit, delete. Any number of processes may run it.

It dies between two of these: the row comes due again after `HOLD`, and its key makes no second job. The service forgets
a key `lifetime` seconds after its first use; a row that was tried before that is stopped, and somebody has to look.
"""

import asyncio
from collections.abc import Sequence

import asyncpg
import httpx
import structlog
from prometheus_client import Counter, Gauge

from accepted import logs
from accepted.client.connection import was_sent
from accepted.client.errors import UnexpectedAnswer
from accepted.concurrency import set_within
from accepted.forwarding import rows
from accepted.forwarding.rows import Outbox, OutboxRow

BATCH_SIZE = 50
"""Rows that are taken, and submitted, at once."""

PAUSE = 0.1
"""Seconds between looks at an outbox in which nothing was due."""

AFTER_FAILURE = 2.0
"""Seconds until the next try after the service, or the database, was away."""

LOOK_EVERY = 5.0
"""Seconds between counts of the backlog, and looks for rows whose key is forgotten."""

SENT_WITHIN = 20.0
"""Seconds for one submission as a whole: those of httpx are for each silence."""

HOLD = 60.0
"""Seconds for which a taken row is this process's: a batch is submitted, and its rows deleted, well within."""

MARGIN = 5 * HOLD
"""Seconds before the end of the key's lifetime at which the last try begins. A request that was given up may still
arrive: the kernel sends it for up to two minutes more, and a proxy may hold it."""

MADE = frozenset({200, 202, 410})
"""The job is there; 410: it was, and is past its retention."""

GONE = "/problems/gone"
"""How the type of the problem ends that comes with a 410 of ours, behind a prefix too."""

UNSENT, UNANSWERED = 0, 1
"""In place of a status: the request did not leave, or may have arrived."""

REFUSED = frozenset({400, 413, 415, 422})
"""The service will never take the job. Any other answer may be that of a wrong address or key, or of an outage."""

KEYLESS = frozenset({UNSENT, 401, 403, 404, 405, 425, 429})
"""The service has no record of the key."""

WAITING = Gauge("accepted_forward_backlog", "Jobs of the outbox that wait to be submitted.")
OLDEST = Gauge("accepted_forward_oldest_seconds", "For how long the oldest of them has waited.")
STOPPED = Gauge("accepted_forward_stopped", "Jobs of the outbox that are not submitted any more: see `stopped`.")
FORWARDED = Counter("accepted_forwarded_total", "Jobs of the outbox that were submitted.")

log = structlog.get_logger(__name__)


class Forwarder:
    """Forwards the outbox at `database_url` through `http`, whose base URL and key are those of the service."""

    def __init__(self, database_url: str, http: httpx.AsyncClient, key_lifetime: float) -> None:
        self._url = database_url
        self._http = http
        self._lifetime = key_lifetime - MARGIN
        self._look_at = 0.0
        self._pause = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Forward until `stopping` is set. What was taken by then is submitted."""
        while not stopping.is_set():
            try:
                await self._forward(stopping)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logs.outage("outbox_away", error)
                await set_within(AFTER_FAILURE, stopping)

    async def run_once(self, conn: Outbox) -> int:
        """One batch. Returns how many jobs were submitted."""
        await self._look(conn)
        batch = await rows.take(conn, BATCH_SIZE, HOLD, self._lifetime)
        if not batch:
            return 0
        tried = list(zip(batch, await asyncio.gather(*map(self._submit, batch)), strict=True))
        made = [row.id for row, status in tried if status in MADE]
        await rows.delete(conn, made)
        FORWARDED.inc(len(made))
        await self._set_aside(conn, [(row, status) for row, status in tried if status not in MADE])
        return len(made)

    async def _forward(self, stopping: asyncio.Event) -> None:
        conn = await rows.connect(self._url)
        try:
            while not stopping.is_set():
                self._pause = 0.0
                if not await self.run_once(conn):
                    await set_within(max(PAUSE, self._pause), stopping)
        finally:
            conn.terminate()

    async def _look(self, conn: Outbox) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._look_at:
            return
        try:
            await self._count(conn)
        except TimeoutError as error:  # a table that is too large to count is forwarded all the same
            logs.outage("outbox_not_counted", error)
        self._look_at = loop.time() + LOOK_EVERY

    async def _count(self, conn: Outbox) -> None:
        if stopped := await rows.stop_old(conn, self._lifetime):
            log.error("outbox_rows_stopped", reason=rows.KEY_EXPIRED, count=stopped)
        found = await rows.backlog(conn)
        WAITING.set(found.waiting)
        STOPPED.set(found.stopped)
        OLDEST.set(found.oldest)

    async def _submit(self, row: OutboxRow) -> int:
        """The status of the answer; `UNSENT` or `UNANSWERED` without one."""
        headers = {"Idempotency-Key": str(row.id), "Content-Type": "application/json"}
        try:
            async with asyncio.timeout(SENT_WITHIN):
                answer = await self._http.post("/jobs", content=row.body, headers=headers, timeout=SENT_WITHIN)
        except (httpx.HTTPError, TimeoutError) as error:
            logs.outage("service_away", error)
            return UNSENT if isinstance(error, httpx.HTTPError) and not was_sent(error) else UNANSWERED
        if answer.status_code in MADE and not _is_ours(answer):
            logs.outage("not_the_service", UnexpectedAnswer(f"{answer.url} answers {answer.status_code} without a job"))
            return UNANSWERED
        return answer.status_code

    async def _set_aside(self, conn: Outbox, tried: Sequence[tuple[OutboxRow, int]]) -> None:
        """Stop what the service refuses, and put off what another try may submit."""
        later = [row for row, status in tried if status not in REFUSED]
        for row, status in tried:
            if status in REFUSED:
                log.error("outbox_rows_stopped", reason=f"refused with {status}", row_id=str(row.id))
                await rows.stop(conn, row, f"refused with {status}")
        if later:
            self._pause = AFTER_FAILURE
            untried = [row.id for row, status in tried if row.fresh and status in KEYLESS]
            await rows.put_off(conn, later, AFTER_FAILURE, untried)


def _is_ours(answer: httpx.Response) -> bool:
    """Whether it is a job, or says that ours is gone: at a wrong address anything may answer 200 or 410."""
    try:
        body = answer.json()
    except ValueError:
        return False
    return isinstance(body, dict) and ({"id", "links"} <= body.keys() or str(body.get("type")).endswith(GONE))
