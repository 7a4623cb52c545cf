"""Alerts: the operator hears of dead letters at ACCEPTED_ALERT_URL, one by one while they are few, else together.

An alert is a job of type `alert.deliver`, written in the transaction that marks its dead letters as alerted: none is
forgotten, and none is alerted twice. It has a tenant of its own, because it may be about the letters of every tenant.
The URL is not in the ledger: the worker that delivers the alert has it in its settings.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.ids import link
from accepted.domain.job import ALERT_TYPE, NewJob
from accepted.domain.tenants import RESERVED
from accepted.services.webhooks import delivery, write
from accepted.storage import dead_letters
from accepted.storage.db import periodic_locks
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import ledger_time
from accepted.storage.dead_letters import LetterKind, UnalertedLetter

OPERATOR = RESERVED + "operator"
"""The tenant of alerts."""

MAX_SINGLE = 5
"""Alerts about one letter each within `MINUTE`. Further letters share one alert in that time."""

MINUTE = 60.0
"""Seconds, as `DAY`."""

DAY = 86400.0

MAX_LETTERS = 10_000
"""Letters in one alert. The others are in the next, a minute later."""

MAX_KINDS = 200
"""Kinds of letters, by (queue, type, class), that an alert counts."""

EXAMPLES = 5

TOGETHER = "alert"
REPORT = "dead-letter-report"
"""Names of periodic locks."""


async def alert(engine: AsyncEngine, broker: Broker) -> int:
    """Write the alerts that are due. Returns how many letters they are about."""
    async with transaction(engine) as conn:
        waiting = await dead_letters.count_unalerted(conn, MAX_SINGLE + 1)
        if not waiting:
            return 0
        now = await ledger_time(conn)
        room = MAX_SINGLE - await dead_letters.count_recent_alerts(conn, OPERATOR, MINUTE, MAX_SINGLE)
        if waiting <= room:
            letters = await dead_letters.take_unalerted(conn, room)
            alerts = [_one(letter, now) for letter in letters]
        elif await periodic_locks.take(conn, TOGETHER, MINUTE):
            letters = await dead_letters.take_unalerted(conn, MAX_LETTERS)
            alerts = [_many(letters, now)] if letters else []
        else:
            return 0
        await write(conn, broker, alerts)
        await conn.commit()
    return len(letters)


async def report(engine: AsyncEngine, broker: Broker) -> int:
    """Once a day, write a report of all dead letters, even if there are none. Returns how many reports: 0 or 1."""
    async with transaction(engine) as conn:
        await periodic_locks.start(conn, REPORT)
        due = await periodic_locks.take(conn, REPORT, DAY)
        if due:
            depth = await dead_letters.kinds(conn, MAX_KINDS)
            await write(conn, broker, [_alert("dead_letters.report", await ledger_time(conn), _depth(depth))])
        await conn.commit()
    return int(due)


def _one(letter: UnalertedLetter, now: datetime) -> NewJob:
    return _alert("dead_letter.created", now, _shown(letter))


def _many(letters: Sequence[UnalertedLetter], now: datetime) -> NewJob:
    kinds = Counter((letter.queue, letter.type, letter.class_) for letter in letters)
    depth = [LetterKind(*kind, count) for kind, count in kinds.most_common(MAX_KINDS)]
    examples = [_shown(letter) for letter in letters[:EXAMPLES]]
    return _alert("dead_letters.created", now, {**_depth(depth), "count": len(letters), "examples": examples})


def _alert(event: str, now: datetime, data: dict[str, Any]) -> NewJob:
    body = msgspec.json.encode({"type": event, "timestamp": now, "data": data}).decode()
    return delivery(OPERATOR, ALERT_TYPE, {"event": body})


def _shown(letter: UnalertedLetter) -> dict[str, Any]:
    return {**msgspec.to_builtins(letter), "links": {"job": link(f"/jobs/{letter.job_id}")}}


def _depth(kinds: Sequence[LetterKind]) -> dict[str, Any]:
    return {"count": sum(kind.count for kind in kinds), "by": kinds}
