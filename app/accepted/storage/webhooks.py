"""Webhook deliveries, read as such: jobs of type `webhook.deliver`, with what each attempt was answered.

There is no table of them. A delivery is found by the job or batch that it tells of, which is in its payload and never
changes: an index of the rows of deliveries alone has it (migration 0004). Every question is asked for one tenant.

The secrets that a tenant's webhooks are signed with: one current, and older ones until their rotation is over.

Webhook URLs that fail: since when without a break. One that has done so for `GIVEN_UP` is told nothing more.

A row is written by the first failure and deleted by the next success, or by whoever sends a delivery to it again
(`accepted.storage.jobs.manual_retry`, `begin_anew`): then it has another five days.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.ids import new_id
from accepted.domain.job import WEBHOOK_TYPE
from accepted.storage.db.notifications import ANNOUNCE

_ABOUT = "COALESCE(j.payload ->> 'job_id', j.payload ->> 'batch_id')"
"""The expression of the index `deliveries_about`."""

_SHOWN = rf"""
SELECT j.id, j.status, p.url, substring(p.event FROM '^\{{"type":"([^"]+)"'), p.job_id, p.batch_id, p.redelivery_of,
       j.created_at, j.run_at, j.finished_at
FROM jobs j CROSS JOIN LATERAL json_to_record(j.payload)
    AS p(url text, job_id text, batch_id text, event text, redelivery_of text)
WHERE j.type = '{WEBHOOK_TYPE}' AND j.tenant = :tenant
"""
"""The event's name is cut out of its text, where `accepted.services.webhooks.event` has it first. Read as JSON, a body
with an escaped NUL in it, as a result may hold one, would be an error to PostgreSQL."""

_CONDITIONS = {
    "job_id": f"{_ABOUT} = :job_id AND p.job_id = :job_id",
    "batch_id": f"{_ABOUT} = :batch_id AND p.batch_id = :batch_id",
    "status": "j.status = :status",
    "before": "j.id < :before",
}

_FIND = text(f"{_SHOWN} AND j.id = :id")

_ATTEMPTS = text("""
SELECT job_id, attempt, started_at, finished_at, outcome, CAST(error AS text), CAST(answer AS text) FROM attempts
WHERE job_id = ANY(CAST(:ids AS uuid[])) ORDER BY job_id, attempt
""")

_LOCK = text("SELECT id FROM jobs WHERE id = :id FOR UPDATE")

_UNDER_WAY = text(f"""
SELECT j.id FROM jobs j
WHERE j.type = '{WEBHOOK_TYPE}' AND j.tenant = :tenant AND {_ABOUT} = :about
  AND j.payload ->> 'redelivery_of' = :original AND j.finished_at IS NULL
LIMIT 1
""")

_BRING_FORWARD = text(f"""
WITH waiting AS MATERIALIZED (
    SELECT job_id, attempt FROM outbox WHERE job_id = :id AND attempt = :attempt FOR UPDATE
), moved AS (
    UPDATE jobs j SET run_at = LEAST(j.run_at, now()) FROM waiting w
    WHERE j.id = w.job_id AND j.attempt = w.attempt AND j.status IN ('scheduled', 'retrying')
    RETURNING j.id
), due AS (
    UPDATE outbox o SET due_at = LEAST(o.due_at, now()) FROM moved m WHERE o.job_id = m.id
)
SELECT id, {ANNOUNCE.format(rows="moved")} FROM moved
""")
"""The outbox row is locked before the job, as by the relay. A job that the relay took meanwhile is `queued`, and stays
as it is."""


class DeliveryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries; None does not restrict. `before` is the id to go on from, exclusive."""

    job_id: str | None = None
    batch_id: str | None = None
    status: str | None = None
    before: UUID | None = None


class WebhookDelivery(msgspec.Struct, frozen=True):
    """A delivery, by the id of its job, of the `event` that came of a job or of a batch.

    `redelivery_of` is the delivery that had succeeded and is sent again by this one.
    """

    id: UUID
    status: str
    url: str
    event: str
    job_id: str | None
    batch_id: str | None
    redelivery_of: str | None
    created_at: datetime
    run_at: datetime
    finished_at: datetime | None


class DeliveryAttempt(msgspec.Struct, frozen=True):
    """One attempt at a delivery. `error` and `answer` are JSON text; no answer: nothing came back that was one."""

    delivery_id: UUID
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: str | None
    answer: str | None


async def page(conn: AsyncConnection, tenant: str, wanted: DeliveryFilter, limit: int) -> list[WebhookDelivery]:
    """Up to `limit` deliveries, the newest first."""
    query, values = _page(tenant, wanted)
    return [WebhookDelivery(*row) for row in await conn.execute(text(query), values | {"limit": limit})]


async def find(conn: AsyncConnection, tenant: str, delivery_id: UUID) -> WebhookDelivery | None:
    """The delivery with this id."""
    row = (await conn.execute(_FIND, {"tenant": tenant, "id": delivery_id})).first()
    return None if row is None else WebhookDelivery(*row)


async def attempts_at(conn: AsyncConnection, ids: Sequence[UUID]) -> list[DeliveryAttempt]:
    """Every attempt at these deliveries, by delivery and number."""
    return [DeliveryAttempt(*row) for row in await conn.execute(_ATTEMPTS, {"ids": list(ids)})]


async def lock(conn: AsyncConnection, delivery_id: UUID) -> bool:
    """Let nobody else see to this delivery until the transaction ends. False: it is gone."""
    return (await conn.execute(_LOCK, {"id": delivery_id})).first() is not None


async def under_way(conn: AsyncConnection, tenant: str, about: str, original: UUID) -> UUID | None:
    """A redelivery of `original`, which tells of the job or batch `about`, that has not finished."""
    values = {"tenant": tenant, "about": about, "original": str(original)}
    found: UUID | None = (await conn.execute(_UNDER_WAY, values)).scalar()
    return found


async def bring_forward(conn: AsyncConnection, delivery_id: UUID, attempt: int) -> bool:
    """Let a delivery that waits for its moment be due now. False: it does not wait any more, and nothing is changed.

    The caller commits.
    """
    return (await conn.execute(_BRING_FORWARD, {"id": delivery_id, "attempt": attempt})).first() is not None


def _page(tenant: str, wanted: DeliveryFilter) -> tuple[str, dict[str, Any]]:
    """Only the conditions that are asked for: each combination has a plan of its own, by its own index."""
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    conditions = "".join(f" AND {_CONDITIONS[name]}" for name in given)
    return f"{_SHOWN}{conditions} ORDER BY j.id DESC LIMIT :limit", given | {"tenant": tenant}


ROTATION = 86400.0
"""Seconds for which a replaced secret still signs, beside the new one."""

_VALID = text("""
SELECT secret FROM webhook_secrets WHERE tenant = :tenant AND (expires_at IS NULL OR expires_at > now())
ORDER BY expires_at IS NULL DESC, created_at DESC
""")
_ADD = text("""
INSERT INTO webhook_secrets (id, tenant, secret) VALUES (:id, :tenant, :secret)
ON CONFLICT (tenant) WHERE expires_at IS NULL DO NOTHING
""")
_REPLACE = text("""
UPDATE webhook_secrets SET expires_at = now() + CAST(:rotation AS float8) * interval '1 second'
WHERE tenant = :tenant AND expires_at IS NULL
""")


async def current_secrets(conn: AsyncConnection, tenant: str, fresh: str) -> list[str]:
    """The tenant's valid secrets, newest first; `fresh` becomes the first one when there is none yet.

    The caller commits.
    """
    found = await _valid(conn, tenant)
    if not found:
        await conn.execute(_ADD, {"id": new_id(), "tenant": tenant, "secret": fresh})
        found = await _valid(conn, tenant)
    return found


async def rotate_secret(conn: AsyncConnection, tenant: str, fresh: str) -> list[str]:
    """Sign with `fresh` from now on, and with what was there for `ROTATION` more seconds. The caller commits."""
    await conn.execute(_REPLACE, {"tenant": tenant, "rotation": ROTATION})
    await conn.execute(_ADD, {"id": new_id(), "tenant": tenant, "secret": fresh})
    return await _valid(conn, tenant)


async def _valid(conn: AsyncConnection, tenant: str) -> list[str]:
    return [row[0] for row in await conn.execute(_VALID, {"tenant": tenant})]


GIVEN_UP = 5 * 86400.0
"""Seconds: contract section 6. From the first failure to the last: a URL that nobody calls does not fail."""

BREAK = 2 * 86400.0
"""Seconds without a failure after which the next is a first one again. Each delivery is tried once a day at least."""

_GIVEN_UP = text(f"""
SELECT failed_at >= failing_since + interval '{GIVEN_UP} seconds' FROM webhook_urls
WHERE tenant = :tenant AND url = :url
""")
_FAILED = text(f"""
INSERT INTO webhook_urls AS u (tenant, url) VALUES (:tenant, :url)
ON CONFLICT (tenant, url) DO UPDATE SET failed_at = now(),
    failing_since = CASE WHEN u.failed_at < now() - interval '{BREAK} seconds' THEN now() ELSE u.failing_since END
""")
_FORGET = text("DELETE FROM webhook_urls WHERE tenant = :tenant AND url = :url")


async def given_up(conn: AsyncConnection, tenant: str, url: str) -> bool | None:
    """Whether nothing more is to be sent there; None when it has not url_failed since it last succeeded."""
    row = (await conn.execute(_GIVEN_UP, {"tenant": tenant, "url": url})).first()
    return None if row is None else bool(row[0])


async def url_failed(conn: AsyncConnection, tenant: str, url: str) -> None:
    """A delivery has url_failed. The caller commits."""
    await conn.execute(_FAILED, {"tenant": tenant, "url": url})


async def url_answered(conn: AsyncConnection, tenant: str, url: str) -> None:
    """A delivery has succeeded. The caller commits."""
    await conn.execute(_FORGET, {"tenant": tenant, "url": url})


async def forget_failures(conn: AsyncConnection, tenant: str, url: str) -> None:
    """A redelivery was asked for: the URL gets its full time of failing again. The caller commits."""
    await conn.execute(_FORGET, {"tenant": tenant, "url": url})
