"""Telling the operator of dead letters, at ACCEPTED_ALERT_URL: one by one while they are few, together when many.

An alert is a job (type `alert.deliver`), written in the transaction that marks its letters as told: none is forgotten,
none is told twice. It belongs to a tenant of its own, since it may tell of every tenant's letters. The URL is not in
the ledger: the worker that delivers the alert takes it from its settings.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.job import ALERT_TYPE, NewJob
from accepted.services.webhooks import delivery, write
from accepted.storage import dead_letters
from accepted.storage.db import periodic_locks
from accepted.storage.db.engine import transaction
from accepted.storage.dead_letters import LetterKind, UnalertedLetter

OPERATOR = "accepted:operator"
"""The tenant of alerts."""

SINGLY = 5
"""Alerts within `MINUTE`; what comes beyond them is told together, once in that time."""

MINUTE = 60.0
DAY = 86400.0

MOST = 10_000
"""Letters in one alert. The rest is told a minute later."""

MOST_KINDS = 200
EXAMPLES = 5

TOGETHER = "alert"
REPORT = "dead-letter-report"
"""Names of periodic locks."""


async def tell(engine: AsyncEngine, broker: Broker) -> int:
    """Write the alerts that are due. Returns how many letters they tell of."""
    async with transaction(engine) as conn:
        waiting = await dead_letters.count_unalerted(conn, SINGLY + 1)
        if not waiting:
            return 0
        room = SINGLY - await dead_letters.count_recent_alerts(conn, OPERATOR, MINUTE, SINGLY)
        if waiting <= room:
            letters = await dead_letters.take_unalerted(conn, room)
            alerts = [_one(letter) for letter in letters]
        elif await periodic_locks.take(conn, TOGETHER, MINUTE):
            letters = await dead_letters.take_unalerted(conn, MOST)
            alerts = [_many(letters)] if letters else []
        else:
            return 0
        await write(conn, broker, alerts)
        await conn.commit()
    return len(letters)


async def report(engine: AsyncEngine, broker: Broker) -> int:
    """Once a day, how deep the letters lie, also when there are none. Returns whether this was the time."""
    async with transaction(engine) as conn:
        await periodic_locks.start(conn, REPORT)
        due = await periodic_locks.take(conn, REPORT, DAY)
        if due:
            depth = await dead_letters.kinds(conn, MOST_KINDS)
            await write(conn, broker, [_alert("dead_letters.report", _depth(depth))])
        await conn.commit()
    return int(due)


def _one(letter: UnalertedLetter) -> NewJob:
    return _alert("dead_letter.created", _shown(letter))


def _many(letters: Sequence[UnalertedLetter]) -> NewJob:
    kinds = Counter((letter.queue, letter.type, letter.class_) for letter in letters)
    depth = [LetterKind(*kind, count) for kind, count in kinds.most_common(MOST_KINDS)]
    examples = [_shown(letter) for letter in letters[:EXAMPLES]]
    return _alert("dead_letters.created", {**_depth(depth), "count": len(letters), "examples": examples})


def _alert(event: str, data: dict[str, Any]) -> NewJob:
    body = msgspec.json.encode({"type": event, "timestamp": datetime.now(UTC), "data": data}).decode()
    return delivery(OPERATOR, ALERT_TYPE, {"event": body})


def _shown(letter: UnalertedLetter) -> dict[str, Any]:
    return {**msgspec.to_builtins(letter), "links": {"job": f"/jobs/{letter.job_id}"}}


def _depth(kinds: Sequence[LetterKind]) -> dict[str, Any]:
    return {"count": sum(kind.count for kind in kinds), "by": kinds}
