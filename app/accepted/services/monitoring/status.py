"""What is wrong right now, as `GET /status` lists it: within a second, whatever is away or slow.

Each check reads one kind of facts from the ledger. One after the other they use one connection, until the time is up;
what was not checked by then is a problem of its own. Of queues, hosts, schedules and jobs a caller sees those of its
tenant; that the ledger, the broker, a scheduler or a loop is in trouble concerns everybody.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker, checked
from accepted.concurrency import done_within
from accepted.domain.monitoring import problems
from accepted.domain.monitoring.problems import NOTICED, StatusProblem
from accepted.domain.monitoring.statistics import percentile
from accepted.domain.network import targets
from accepted.domain.network.urls import UrlRefused
from accepted.domain.schedule import MISSED
from accepted.errors import LedgerUnavailable
from accepted.loops import LoopReport
from accepted.services.queues import described
from accepted.storage.counts import backlogs
from accepted.storage.counts.backlogs import Backlog
from accepted.storage.db.engine import reading, translated
from accepted.storage.db.statements import ledger_time
from accepted.storage.monitoring import processes, status
from accepted.storage.queue_load import BIN

WITHIN = 0.8
"""Seconds for the ledger and the broker, which leaves some for the rest of an answer within a second."""

SLOW = 0.25
"""Seconds that the simplest question may take. It takes 1 ms."""

COUNTED_WITHIN = 3 * BIN
"""Seconds without a count of what waits after which no scheduler runs."""

TROUBLED = 60.0
"""Seconds for which a loop fails, or a round of it runs, until that is a problem. A round is bounded."""

log = structlog.get_logger(__name__)


async def problems_now(
    engine: AsyncEngine, broker: Broker, tenant: str | None, lease_ttl: float
) -> list[StatusProblem]:
    """What is wrong for this tenant, or, if it is None, for anybody. Never raises, and answers within a second."""
    checks = _Checks(engine, tenant, lease_ttl)
    checking, asking = asyncio.create_task(checks.run()), asyncio.create_task(_broker(broker))
    await done_within(WITHIN, checking, asking)
    return checks.unanswered() + (asking.result() if asking.done() else []) + checks.found


async def _broker(broker: Broker) -> list[StatusProblem]:
    if broker.is_ledger:
        return []
    said = await checked(broker, WITHIN / 2)
    return [] if said == "ok" else [problems.broker_away(said, datetime.now(UTC))]


class _Checks:
    """The checks of one answer, and what they have found so far."""

    def __init__(self, engine: AsyncEngine, tenant: str | None, lease_ttl: float) -> None:
        self.found: list[StatusProblem] = []
        self._engine = engine
        self._tenant = tenant
        self._lease_ttl = lease_ttl
        self._now = datetime.now(UTC)
        self._refusal: str | None = None
        self._left: dict[str, Callable[[AsyncConnection], AsyncIterator[StatusProblem]]] = {
            "schedulers": self._schedulers,
            "loops": self._loops,
            "queues": self._queues,
            "workers": self._workers,
            "dead letters": self._failures,
            "long attempts": self._long_runs,
            "hosts": self._hosts,
            "webhooks": self._webhooks,
            "schedules": self._schedules,
        }

    async def run(self) -> None:
        """Make the checks. Never raises."""
        try:
            async with reading(self._engine) as conn:
                began = time.monotonic()
                self._now = await ledger_time(conn)
                if (took := time.monotonic() - began) > SLOW:
                    self.found.append(problems.ledger_slow(took, self._now))
                for name in tuple(self._left):
                    await self._check(name, conn)
        except LedgerUnavailable as error:
            self._refusal = str(error)

    def unanswered(self) -> list[StatusProblem]:
        """The problem that the ledger is, if there are checks that it did not answer."""
        if not self._left:
            return []
        said = self._refusal or f"The ledger did not answer within {WITHIN:g} s"
        return [problems.ledger_away(said, self._now, list(self._left))]

    async def _check(self, name: str, conn: AsyncConnection) -> None:
        check = self._left[name]
        try:
            with translated():
                found = [problem async for problem in check(conn)]
        except LedgerUnavailable:
            raise
        except Exception:
            log.exception("status_check_failed", check=name)
            found = [problems.not_checked(name, self._now)]
        self.found += found
        del self._left[name]

    async def _schedulers(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        due = await status.unpublished_since(conn)
        if due is not None and (self._now - due).total_seconds() > NOTICED:
            yield problems.no_scheduler(due, delayed=True)
            return
        counted = await status.sampled_at(conn)
        if counted is None or (self._now - counted).total_seconds() > COUNTED_WITHIN + BIN:
            yield problems.no_scheduler(counted or self._now, delayed=False)

    async def _loops(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        """It is enough that a loop succeeds in one of several schedulers."""
        turning: defaultdict[str, list[LoopReport]] = defaultdict(list)
        for process in await processes.live(conn, self._lease_ttl):
            for loop in msgspec.json.decode(process.loops, type=list[LoopReport]):
                turning[loop.name].append(loop)
        for name, found in turning.items():
            troubles = [loop.troubled_since for loop in found if loop.troubled_since is not None]
            since = max(troubles, default=self._now)
            if len(troubles) == len(found) and (self._now - since).total_seconds() > TROUBLED:
                yield problems.failing_loop(name, since, any(loop.failing_since is not None for loop in found))

    async def _queues(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        shown = await described(conn, None, self._lease_ttl)
        own = None if self._tenant is None else (await backlogs.backlogs(conn, None, self._tenant))[0]
        for queue in shown:
            waiting, oldest = queue["depth"]["queued"], queue["oldest_waiting_age"]
            if own is not None:
                mine = own.get(queue["name"], Backlog())
                waiting, oldest = mine.counts.get("queued", 0), mine.oldest
            if (problem := problems.queue_problem(queue, waiting, oldest, self._now)) is not None:
                yield problem

    async def _workers(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        for one in await status.unserved(conn, self._tenant, self._lease_ttl):
            yield problems.unserved_type(one.queue, one.type, one.since)
        for worker in await status.blocked_workers(conn, self._tenant, self._lease_ttl):
            said = msgspec.json.decode(worker.blocked)
            yield problems.blocked_loop(worker.name, said, worker.queue, worker.heartbeat_at)

    async def _failures(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        for one in await status.recent_failures(conn, self._tenant):
            if one.crashed >= problems.MANY_CRASHES:
                yield problems.crashes(one.queue, one.type, one.crashed, one.crashing_since or self._now)
            if one.dead_letters >= problems.MANY_LETTERS:
                yield problems.dead_letters(one.queue, one.type, one.dead_letters, one.dying_since or self._now)

    async def _long_runs(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        usual: dict[tuple[str, str], tuple[float | None, int]] = {}
        for run in await status.long_runs(conn, self._tenant, problems.LONG_RUN):
            kind = run.queue, run.type
            if kind not in usual:
                counts = await status.usual_runs(conn, *kind)
                usual[kind] = percentile(counts, 0.99), sum(counts)
            longest, runs = usual[kind]
            if longest is not None and problems.is_stuck(run.seconds, longest, runs):
                yield problems.stuck(run.queue, run.type, str(run.id), run.started_at, run.seconds, longest)

    async def _hosts(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        for one in await status.held_hosts(conn, self._tenant):
            if one.waiting:
                why = targets.trouble(one.reason, one.failures)
                yield problems.held_host(one.host, one.deferred_until, why, one.waiting, one.updated_at)

    async def _webhooks(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        for one in await status.given_up(conn, self._tenant):
            yield problems.receiver_given_up(_host_of(one.url), one.failing_since)

    async def _schedules(self, conn: AsyncConnection) -> AsyncIterator[StatusProblem]:
        for one in await status.unfired(conn, self._tenant):
            since = one.scheduled_at or one.next_at or self._now
            if one.next_at is None:
                yield problems.unfired(one.name, "is enabled and has no next time: its line cannot be read", since)
            elif one.late:
                yield problems.unfired(one.name, "is late: its time has come, and it has not fired", one.next_at)
            elif one.reason == MISSED:
                yield problems.unfired(one.name, "missed its last time, because no scheduler ran", since)
            else:
                yield problems.unfired(one.name, f"could not fire at its last time: {one.reason}", since)


def _host_of(url: str) -> str:
    try:
        return targets.key_of(url)
    except UrlRefused:
        return "an address that is not allowed any more"
