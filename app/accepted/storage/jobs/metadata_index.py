"""The index of metadata: for each job, and each of its pairs whose key is indexed, a row by which the pair finds it.

`metadata_keys` names the indexed keys, and since when each was: jobs that were accepted before it have no row, and are
searched without the index. `accepted.storage.jobs.submission` writes the rows in the statement that accepts the job, by
the table and not by a setting, so that every process writes them from the COMMIT of `keep_keys` on.
"""

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from accepted.storage.db.statements import Connection, Statement

_BYTES = 16
"""Of the hash of a pair. Two pairs with one hash do no harm: a search compares the metadata itself, too."""

PAIR = f"substring(sha256(convert_to(m.key || '=' || m.value, 'UTF8')) FOR {_BYTES})"
"""What `pair` computes, for a row `m` of `json_each_text`."""

ADD = f"""
    INSERT INTO job_metadata (tenant, pair, job_id)
    SELECT a.tenant, {PAIR}, a.id FROM {{rows}} a CROSS JOIN LATERAL json_each_text(CAST(a.metadata AS json)) AS m
    WHERE m.key IN (SELECT key FROM metadata_keys) ON CONFLICT DO NOTHING
"""
"""Writes the rows of new jobs, which have an id, a tenant and their metadata as text, or none."""

REMOVE = f"""
    DELETE FROM job_metadata x USING (
        SELECT j.tenant, {PAIR} AS pair, j.id FROM {{rows}} j CROSS JOIN LATERAL json_each_text(j.metadata) AS m
    ) AS gone
    WHERE (x.tenant, x.pair, x.job_id) = (gone.tenant, gone.pair, gone.id)
"""
"""Deletes the rows of jobs, of which `rows` has the id, the tenant and the metadata."""

_KEEP = Statement("""
WITH gone AS (
    DELETE FROM metadata_keys WHERE key <> ALL(CAST(:keys AS text[]))
)
INSERT INTO metadata_keys (key) SELECT unnest(CAST(:keys AS text[])) ORDER BY 1 ON CONFLICT DO NOTHING
""")

_INDEXED = Statement("""
SELECT key, indexed_since FROM metadata_keys WHERE key = ANY(CAST(:keys AS text[])) ORDER BY indexed_since, key LIMIT 1
""")


class IndexedPair(NamedTuple):
    """A pair whose jobs have rows, if they were accepted after `since`."""

    pair: bytes
    since: datetime


def pair(key: str, value: str) -> bytes:
    """What stands for a pair in the index."""
    return hashlib.sha256(f"{key}={value}".encode()).digest()[:_BYTES]


async def keep_keys(conn: Connection, keys: Collection[str]) -> None:
    """Index these keys from now on, and no others. The caller commits."""
    await _KEEP.run(conn, keys=list(keys))


async def find(conn: Connection, pairs: Mapping[str, str]) -> IndexedPair | None:
    """Of these pairs, the one whose key has been indexed for the longest time; None if no key is indexed."""
    row = await _INDEXED.first(conn, keys=list(pairs))
    return None if row is None else IndexedPair(pair(row["key"], pairs[row["key"]]), row["indexed_since"])
