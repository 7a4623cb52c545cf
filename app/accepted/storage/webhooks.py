"""Webhooks: deliveries, the secrets that sign them, and the URLs that fail.

A delivery is a job of type `webhook.deliver`; it has no table of its own. It is found by the job or batch that it tells
of, which is in its payload and never changes: two partial indexes of `jobs` are for deliveries alone.

A receiver has a row with the time that it took to answer, which decides how many deliveries it gets at once.

A tenant has one current secret, and former ones until their rotation ends. A URL has a row from its first failure until
the next success, or until a delivery to it is sent again (`accepted.storage.jobs.manual_retry`, `forget_failures`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.ids import new_id
from accepted.domain.job import WEBHOOK_TYPE
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Statement, struct

ROTATION = 86400.0
"""Seconds for which a replaced secret still signs, beside the new one."""

GIVEN_UP = 5 * 86400.0
"""Seconds from the first failure to the last after which a URL is given up (contract section 6)."""

BREAK = 2 * 86400.0
"""Seconds without a failure after which the next one is a first one again. A delivery is tried once a day at least."""

ABOUT = "COALESCE({delivery}.payload ->> 'job_id', {delivery}.payload ->> 'batch_id')"
"""The id of the job or batch that a delivery tells of: the expression of the index `deliveries_about`."""

_ABOUT = ABOUT.format(delivery="j")

_SHOWN = rf"""
SELECT j.id, j.status, p.url, substring(p.event FROM '^\{{"type":"([^"]+)"') AS event, p.job_id, p.batch_id,
       p.redelivery_of, j.created_at, j.run_at, j.finished_at
FROM jobs j CROSS JOIN LATERAL json_to_record(CASE WHEN json_typeof(j.payload) = 'object' THEN j.payload END)
    AS p(url text, job_id text, batch_id text, event text, redelivery_of text)
WHERE j.type = '{WEBHOOK_TYPE}' AND j.tenant = :tenant AND j.deleted_at IS NULL
"""
"""The event's name is cut out of its text, where `accepted.services.webhooks.event` writes it first. PostgreSQL could
not read the text as JSON if the job's result contains an escaped NUL."""

_CONDITIONS = {
    "job_id": f"{_ABOUT} = :job_id AND p.job_id = :job_id",
    "batch_id": f"{_ABOUT} = :batch_id AND p.batch_id = :batch_id",
    "status": "j.status = :status",
    "before": "j.id < :before",
}

_FIND = Statement(f"{_SHOWN} AND j.id = :id")

_ATTEMPTS = Statement("""
SELECT job_id AS delivery_id, attempt, started_at, finished_at, outcome, CAST(error AS text) AS error,
       CAST(answer AS text) AS answer
FROM attempts WHERE job_id = ANY(CAST(:ids AS uuid[])) ORDER BY job_id, attempt
""")

_LOCK = Statement("SELECT id FROM jobs WHERE id = :id AND deleted_at IS NULL FOR UPDATE")

_UNDER_WAY = Statement(f"""
SELECT j.id FROM jobs j
WHERE j.type = '{WEBHOOK_TYPE}' AND j.tenant = :tenant AND {_ABOUT} = :about
  AND j.payload ->> 'redelivery_of' = :original AND j.finished_at IS NULL
LIMIT 1
""")

_BRING_FORWARD = Statement(f"""
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
"""Locks the outbox row before the job, as the relay does. A job that the relay took meanwhile stays `queued`."""

_VALID_SECRETS = Statement("""
SELECT secret FROM webhook_secrets WHERE tenant = :tenant AND (expires_at IS NULL OR expires_at > now())
ORDER BY expires_at IS NULL DESC, created_at DESC
""")

_ADD_SECRET = Statement("""
INSERT INTO webhook_secrets (id, tenant, secret) VALUES (:id, :tenant, :secret)
ON CONFLICT (tenant) WHERE expires_at IS NULL DO NOTHING
""")

_REPLACE_SECRET = Statement("""
UPDATE webhook_secrets SET expires_at = now() + CAST(:rotation AS float8) * interval '1 second'
WHERE tenant = :tenant AND expires_at IS NULL
""")

_FORGET_SECRET = Statement("DELETE FROM webhook_secrets WHERE tenant = :tenant AND secret = :secret")

_FAILING = Statement(f"""
SELECT tenant, url, failed_at >= failing_since + interval '{GIVEN_UP} seconds' AS given_up
FROM webhook_urls JOIN unnest(CAST(:tenants AS text[]), CAST(:urls AS text[])) AS wanted(tenant, url)
    USING (tenant, url)
""")

_URL_FAILED = Statement(f"""
INSERT INTO webhook_urls AS u (tenant, url) VALUES (:tenant, :url)
ON CONFLICT (tenant, url) DO UPDATE SET failed_at = now(),
    failing_since = CASE WHEN u.failed_at < now() - interval '{BREAK} seconds' THEN now() ELSE u.failing_since END
""")

_FORGET_FAILURES = Statement("DELETE FROM webhook_urls WHERE tenant = :tenant AND url = :url")


_ANSWERED_IN = Statement("""
INSERT INTO receivers AS r (key, seconds)
SELECT key, seconds FROM unnest(CAST(:keys AS text[]), CAST(:seconds AS float8[])) AS a(key, seconds) ORDER BY key
ON CONFLICT (key) DO UPDATE SET seconds = (r.seconds + excluded.seconds) / 2, updated_at = now()
""")


class DeliveryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries; None does not restrict. `before` is the id to go on from, exclusive."""

    job_id: str | None = None
    batch_id: str | None = None
    status: str | None = None
    before: UUID | None = None


class WebhookDelivery(msgspec.Struct, frozen=True):
    """A delivery, under the id of its own job, of an `event` of a job or batch.

    `redelivery_of` is the delivery that succeeded before and that this one sends again.
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
    """One attempt at a delivery. `error` and `answer` are JSON text; None: the receiver did not answer."""

    delivery_id: UUID
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: str | None
    answer: str | None


async def page(conn: Connection, tenant: str, wanted: DeliveryFilter, limit: int) -> list[WebhookDelivery]:
    """Up to `limit` deliveries of the tenant, the newest first."""
    statement, values = _page(tenant, wanted)
    return [struct(WebhookDelivery, row) for row in await statement.rows(conn, **values, limit=limit)]


async def find(conn: Connection, tenant: str, delivery_id: UUID) -> WebhookDelivery | None:
    """The tenant's delivery with this id."""
    row = await _FIND.first(conn, tenant=tenant, id=delivery_id)
    return None if row is None else struct(WebhookDelivery, row)


async def attempts_at(conn: Connection, ids: Sequence[UUID]) -> list[DeliveryAttempt]:
    """Every attempt at these deliveries, by delivery and number."""
    return [struct(DeliveryAttempt, row) for row in await _ATTEMPTS.rows(conn, ids=list(ids))]


async def lock(conn: Connection, delivery_id: UUID) -> bool:
    """Lock the delivery until the transaction ends. False: it was pruned."""
    return await _LOCK.first(conn, id=delivery_id) is not None


async def under_way(conn: Connection, tenant: str, about: str, original: UUID) -> UUID | None:
    """An unfinished redelivery of `original`, which is about the job or batch `about`."""
    found: UUID | None = await _UNDER_WAY.value(conn, tenant=tenant, about=about, original=str(original))
    return found


async def bring_forward(conn: Connection, delivery_id: UUID, attempt: int) -> bool:
    """Make a delivery due that is scheduled or waits for a retry. False: it is neither. The caller commits."""
    return await _BRING_FORWARD.first(conn, id=delivery_id, attempt=attempt) is not None


async def current_secrets(conn: Connection, tenant: str, fresh: str) -> list[str]:
    """The tenant's valid secrets, newest first. If it has none, `fresh` becomes its secret. The caller commits."""
    found = await _VALID_SECRETS.values(conn, tenant=tenant)
    if not found:
        await _ADD_SECRET.run(conn, id=new_id(), tenant=tenant, secret=fresh)
        found = await _VALID_SECRETS.values(conn, tenant=tenant)
    return found


async def forget_secret(conn: Connection, tenant: str, secret: str) -> None:
    """Take this secret from the tenant, for good. The caller commits."""
    await _FORGET_SECRET.run(conn, tenant=tenant, secret=secret)


async def rotate_secret(conn: Connection, tenant: str, fresh: str) -> list[str]:
    """Make `fresh` the current secret; the former one signs for `ROTATION` more seconds. The caller commits."""
    await _REPLACE_SECRET.run(conn, tenant=tenant, rotation=ROTATION)
    await _ADD_SECRET.run(conn, id=new_id(), tenant=tenant, secret=fresh)
    return await _VALID_SECRETS.values(conn, tenant=tenant)


async def given_up(conn: Connection, tenant: str, url: str) -> bool | None:
    """Whether the URL is given up: nothing is sent to it. None: it has not failed since its last success."""
    return (await failing(conn, [(tenant, url)])).get((tenant, url))


async def failing(conn: Connection, urls: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
    """Those of these (tenant, URL) that have failed since their last success, and whether they are given up."""
    rows = await _FAILING.rows(conn, tenants=[tenant for tenant, _ in urls], urls=[url for _, url in urls])
    return {(row["tenant"], row["url"]): row["given_up"] for row in rows}


async def url_failed(conn: Connection, tenant: str, url: str) -> None:
    """Record that a delivery to the URL has failed. The caller commits."""
    await _URL_FAILED.run(conn, tenant=tenant, url=url)


async def url_answered(conn: Connection, tenant: str, url: str) -> None:
    """Record that a delivery to the URL has succeeded. The caller commits."""
    await _FORGET_FAILURES.run(conn, tenant=tenant, url=url)


async def answered_in(conn: Connection, seconds: Mapping[str, float]) -> None:
    """Record how long these receivers, by concurrency key, have just taken to answer. The caller commits."""
    await _ANSWERED_IN.run(conn, keys=list(seconds), seconds=list(seconds.values()))


async def forget_failures(conn: Connection, tenant: str, url: str) -> None:
    """Give the URL its full time of failures again, for a redelivery that was asked for. The caller commits."""
    await _FORGET_FAILURES.run(conn, tenant=tenant, url=url)


def _page(tenant: str, wanted: DeliveryFilter) -> tuple[Statement, dict[str, Any]]:
    """The statement with only the conditions that are given, and its values."""
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    return _listing(tuple(given)), given | {"tenant": tenant}


@lru_cache
def _listing(given: tuple[str, ...]) -> Statement:
    """A statement for each combination of conditions, so that each has a plan with its own index."""
    conditions = "".join(f" AND {_CONDITIONS[name]}" for name in given)
    return Statement(f"{_SHOWN}{conditions} ORDER BY j.id DESC LIMIT :limit")
