"""Deleting jobs: what a client sent and what came of it goes; the row stays until it is pruned (docs/decisions/0027).

The row keeps its id and times, and what other rows count on: status, batch, parent, root, its place in a line. The
caller has ended waiting jobs before, and deletes the deliveries of webhooks about a job, which hold the same payload,
before the job.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from accepted.domain.job import WEBHOOK_TYPE
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.jobs import metadata_index
from accepted.storage.webhooks import ABOUT

_ABOUT = ABOUT.format(delivery="d")

_DELIVERIES = Statement(f"""
SELECT d.id, CAST({_ABOUT} AS uuid) AS about, d.status = 'running' AS being_sent FROM jobs d
WHERE d.type = '{WEBHOOK_TYPE}' AND d.deleted_at IS NULL AND {_ABOUT} = ANY(CAST(:ids AS text[]))
""")

_ERASE = Statement(f"""
WITH erased AS MATERIALIZED (
    SELECT j.id, j.tenant, j.metadata, j.type = '{WEBHOOK_TYPE}' AS is_delivery,
           j.id = ANY(CAST(:told AS uuid[])) AS is_told
    FROM jobs j WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.finished_at IS NOT NULL AND j.deleted_at IS NULL
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
), their_attempts AS (
    UPDATE attempts t SET error = NULL, traceback = NULL, answer = NULL, target = NULL
    FROM erased e WHERE t.job_id = e.id
), their_dead_letters AS (
    DELETE FROM dead_letters d USING erased e WHERE d.job_id = e.id
), their_discards AS (
    DELETE FROM discarded_letters d USING erased e WHERE d.job_id = e.id
), their_edits AS (
    DELETE FROM payload_edits p USING erased e WHERE p.job_id = e.id
), their_steps AS (
    DELETE FROM steps s USING erased e WHERE s.job_id = e.id
), their_logs AS (
    DELETE FROM attempt_logs l USING erased e WHERE l.job_id = e.id
), keys AS MATERIALIZED (
    SELECT u.tenant, u.key FROM unique_keys u JOIN erased e ON e.id = u.job_id ORDER BY u.tenant, u.key FOR UPDATE OF u
), their_keys AS (
    DELETE FROM unique_keys u USING keys WHERE u.tenant = keys.tenant AND u.key = keys.key
), their_metadata AS ({metadata_index.REMOVE.format(rows="erased")}
)
UPDATE jobs j SET
    payload = CASE WHEN e.is_delivery
                   THEN json_build_object('job_id', j.payload ->> 'job_id', 'batch_id', j.payload ->> 'batch_id')
                   ELSE '{{}}' END,
    result = NULL, progress = NULL, tags = '{{}}', metadata = '{{}}', traceparent = NULL, concurrency_key = NULL,
    error = CASE WHEN e.is_told THEN j.error END, callback_url = CASE WHEN e.is_told THEN j.callback_url END,
    deleted_at = now()
FROM erased e WHERE j.id = e.id
RETURNING j.id
""")
"""One statement, because a job goes as a whole. A delivery keeps the ids by which the pruner finds what it is about."""


class DeliveryAbout(msgspec.Struct, frozen=True):
    """A delivery of a webhook about a job."""

    id: UUID
    about: UUID
    being_sent: bool


async def deliveries(conn: Connection, ids: Sequence[UUID]) -> list[DeliveryAbout]:
    """The deliveries about these jobs that are not deleted."""
    return [struct(DeliveryAbout, row) for row in await _DELIVERIES.rows(conn, ids=list(map(str, ids)))]


async def erase(conn: Connection, ids: Sequence[UUID], told: Collection[UUID] = ()) -> set[UUID]:
    """Delete what those of these jobs hold that have finished, and return them; skips locked ones. The caller commits.

    `told`: jobs that this transaction has ended. Their webhook is written after this, without what was deleted, so they
    keep its URL and their error, which says that they were cancelled.
    """
    return set(await _ERASE.values(conn, ids=list(ids), told=list(told)))
