"""Idempotency keys: one record for each (tenant, key), which names the job or batch that the key stands for.

The unique index on (tenant, key) decides which key is new; nothing reads first and then inserts. A key expires
`idempotency_ttl` seconds after its submission: from then on the next submission takes its record over, and the pruner
deletes it. Records are locked in the order of their keys, so two batches cannot deadlock.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from accepted.errors import KeyReused
from accepted.storage.db.statements import Connection, Statement

EXPIRED = "expires_at <= now()"

REMEMBER = f"""
    INSERT INTO idempotency_keys AS k (tenant, key, fingerprint, job_id, expires_at)
    SELECT tenant, key, fingerprint, id, now() + CAST(:ttl AS float8) * interval '1 second'
    FROM {{rows}} WHERE key IS NOT NULL ORDER BY tenant, key
    ON CONFLICT (tenant, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, expires_at = excluded.expires_at,
            duplicate = false
        WHERE k.{EXPIRED}
    RETURNING job_id
"""
"""Writes the keys of `rows` (tenant, key, fingerprint, id) for :ttl seconds; returns the ids of those that were new."""

_NAMED = "unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS named(tenant, key)"

_REMEMBER = Statement(f"""
WITH named AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS bytea[]),
                         CAST(:ids AS uuid[])) AS n(tenant, key, fingerprint, id)
)
{REMEMBER.format(rows="named")}
""")

_RECALL = Statement(f"""
SELECT k.tenant, k.key, k.fingerprint, k.job_id, k.duplicate
FROM idempotency_keys k JOIN {_NAMED} USING (tenant, key)
""")

_REDIRECT = Statement("""
UPDATE idempotency_keys k SET job_id = n.job_id, duplicate = true
FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:ids AS uuid[])) AS n(tenant, key, job_id)
WHERE k.tenant = n.tenant AND k.key = n.key
""")

_PRUNE = Statement(f"""
WITH old AS MATERIALIZED (
    SELECT tenant, key FROM idempotency_keys WHERE {EXPIRED} LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM idempotency_keys k USING old WHERE k.tenant = old.tenant AND k.key = old.key
""")


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A key as a submission brings it, with the fingerprint of the body and the id of the new job or batch."""

    tenant: str
    key: str
    fingerprint: bytes
    id: UUID


class KeyRecord(msgspec.Struct, frozen=True):
    """What a key stands for: the fingerprint of the first body, and its job or batch.

    `duplicate`: the job belongs to another submission, which had the same unique key.
    """

    fingerprint: bytes
    job_id: UUID
    duplicate: bool = False

    def reused_by(self, fingerprint: bytes | None) -> KeyReused | None:
        """The error for a submission with this key and another body; None for a replay."""
        if self.fingerprint == fingerprint:
            return None
        return KeyReused("this Idempotency-Key was used before with another body")


async def remember(conn: Connection, keys: Sequence[IdempotencyKey], ttl: float) -> set[UUID]:
    """Write the records of these keys for `ttl` seconds. Returns the ids whose key was new. The caller commits."""
    return set(
        await _REMEMBER.values(
            conn,
            tenants=[one.tenant for one in keys],
            keys=[one.key for one in keys],
            fingerprints=[one.fingerprint for one in keys],
            ids=[one.id for one in keys],
            ttl=float(ttl),
        )
    )


async def recall(conn: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], KeyRecord]:
    """The records of these (tenant, key) pairs; a key that was never used has none."""
    found = await _RECALL.rows(conn, tenants=[tenant for tenant, _ in keys], keys=[key for _, key in keys])
    return {
        (row["tenant"], row["key"]): KeyRecord(row["fingerprint"], row["job_id"], row["duplicate"]) for row in found
    }


async def redirect(conn: Connection, jobs: Mapping[tuple[str, str], UUID]) -> None:
    """Let (tenant, key) records that this transaction has written stand for jobs that existed. The caller commits."""
    await _REDIRECT.run(
        conn, tenants=[tenant for tenant, _ in jobs], keys=[key for _, key in jobs], ids=list(jobs.values())
    )


async def prune(conn: Connection, limit: int) -> int:
    """Delete up to `limit` expired records. Returns how many. The caller commits."""
    return await _PRUNE.count(conn, limit=limit)
