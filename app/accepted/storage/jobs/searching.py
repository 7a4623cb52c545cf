"""Finding jobs by what is known of them, newest first, in steps of a bounded size (docs/decisions/0023).

A step looks at the ids below a given one, down to where it has read enough rows, and says how far it came. It reads
either every job of the tenant (or of the batch, or of the family of a root), or, if only waiting, running or failed
jobs are wanted, the tables that hold just those. Each statement has one plan, whatever the statistics say: an index
gives its order, and what it found is read by id, row by row.
"""

from collections.abc import Collection
from functools import lru_cache, reduce
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from accepted.domain.ids import AFTER_ALL, BEFORE_ALL, floor_at
from accepted.domain.job import LARGE, WAITING, Job, Status
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs import metadata_index
from accepted.storage.jobs.job_filter import JobFilter, conditions, values_of
from accepted.storage.jobs.reading import as_job, listed_columns

SKEW = 3600.0
"""Seconds by which the API's clock, which makes the ids, may differ from the ledger's, which dates the rows."""

UPLOAD = 3600.0
"""Seconds from the id of a member of a batch, which is made as its line arrives, to the commit of the batch."""

MOST_LEASES = 20_000
"""Open leases that a step reads at most. They have no order of ids, so with more a step cannot say how far it came."""

Source: TypeAlias = str
"""What a step reads: a key of `_SOURCES`."""

_BELOW = "({leading}, id) < ({value}, CAST(:before AS uuid)) AND ({leading}, id) >= ({value}, {lowest})"
_REACHED = f"""(
    SELECT id FROM jobs WHERE {_BELOW.replace("{lowest}", "CAST(:floor AS uuid)")} AND {{leading}} IS NOT NULL
    ORDER BY {{leading}} DESC, id DESC OFFSET :step - 1 LIMIT 1
)"""
_FOUND = f"""
    SELECT id FROM jobs
    WHERE {_BELOW.replace("{lowest}", "(SELECT lowest FROM horizon)")} AND {{leading}} IS NOT NULL AND {{conditions}}
    ORDER BY {{leading}} DESC, id DESC LIMIT :limit
"""
"""The leading column is compared and sorted together with the id: only one index has this order. With `tenant = …`
PostgreSQL might read the primary key instead, and all jobs of other tenants with it."""

_BY_ID = """
    SELECT c.job_id AS id FROM ({candidates}) AS c
    CROSS JOIN LATERAL (SELECT id FROM jobs WHERE id = c.job_id AND {conditions} OFFSET 0) AS j
    ORDER BY c.job_id DESC LIMIT :limit
"""
"""LATERAL with OFFSET 0, because a join or `= ANY` reads the whole table by a plan from when it was empty."""

_HELD_REACHED = """(
    SELECT job_id FROM (
        SELECT job_id FROM {table} WHERE job_id < :before ORDER BY job_id DESC OFFSET :step - 1 LIMIT 1
    ) AS last WHERE job_id >= :floor
)"""
_HELD = """
    SELECT job_id FROM (
        SELECT job_id, tenant FROM {table} WHERE job_id < :before AND job_id >= (SELECT lowest FROM horizon)
        ORDER BY job_id DESC LIMIT :step
    ) AS held WHERE tenant = :tenant
"""
_OPEN = "SELECT job_id FROM attempts WHERE finished_at IS NULL ORDER BY worker_id LIMIT :most_leases + 1"
_RUNNING = f"""
    SELECT job_id FROM ({_OPEN}) AS running WHERE job_id < :before AND job_id >= (SELECT lowest FROM horizon)
"""
_PAIR_BELOW = _BELOW.replace("({leading}, id)", "(tenant, pair, job_id)").replace("({value}, ", "(:tenant, :pair, ")
_PAIR_ORDER = "ORDER BY tenant DESC, pair DESC, job_id DESC"


class _Source(NamedTuple):
    """`reached`: the lowest id from which on it reads everything, NULL for all that is left; `found`: what matches."""

    reached: str
    found: str


def _walk(leading: str, value: str) -> _Source:
    names = (("{leading}", leading), ("{value}", value))
    return _Source(*(reduce(lambda sql, pair: sql.replace(*pair), names, part) for part in (_REACHED, _FOUND)))


def _table(name: str) -> _Source:
    """A table that holds some jobs of all tenants, by `job_id`."""
    return _Source(
        _HELD_REACHED.replace("{table}", name), _BY_ID.replace("{candidates}", _HELD.replace("{table}", name))
    )


_SOURCES = {
    "tenant": _walk("tenant", "CAST(:tenant AS text)"),
    "batch": _walk("batch_id", "CAST(:batch_id AS uuid)"),
    "family": _walk("root_id", "CAST(:root AS uuid)"),
    "root": _Source(
        "NULL",
        "SELECT id FROM jobs WHERE id = :root AND id < :before AND id >= (SELECT lowest FROM horizon) AND {conditions}",
    ),
    "metadata": _Source(
        f"""(
            SELECT job_id FROM job_metadata WHERE {_PAIR_BELOW.replace("{lowest}", "CAST(:floor AS uuid)")}
            {_PAIR_ORDER} OFFSET :step - 1 LIMIT 1
        )""",
        _BY_ID.replace(
            "{candidates}",
            f"""
                SELECT job_id FROM job_metadata
                WHERE {_PAIR_BELOW.replace("{lowest}", "(SELECT lowest FROM horizon)")} {_PAIR_ORDER} LIMIT :step
            """,
        ),
    ),
    "outbox": _table("outbox"),
    "letters": _table("dead_letters"),
    "discarded": _table("discarded_letters"),
    "leases": _Source(
        f"(SELECT CAST(:before AS uuid) FROM ({_OPEN}) AS running OFFSET :most_leases LIMIT 1)",
        _BY_ID.replace("{candidates}", _RUNNING),
    ),
}

_ROOT = Statement("SELECT COALESCE(root_id, id) AS root FROM jobs WHERE id = :id AND tenant = :tenant")

_ANY_CHILD = Statement("SELECT EXISTS (SELECT FROM jobs WHERE root_id IS NOT NULL ORDER BY root_id LIMIT 1)")


class SearchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to look for the jobs of a filter: steps read `every` source in turn with the `narrow` ones, if any.

    Both look at the same ids, so that the one of them that has less to read moves the search on. Ids from `ceiling`
    on, and below `floor`, cannot match. From `indexed_from` on, the index of `pair` has all jobs that do.
    """

    tenant: str
    wanted: JobFilter
    every: tuple[Source, ...]
    narrow: tuple[Source, ...]
    root: UUID | None
    floor: UUID
    ceiling: UUID
    pair: bytes | None = None
    indexed_from: UUID = AFTER_ALL


class SearchStep(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs that match, newest first, among those with ids from `reached` on; None: no others are left.

    If there are as many as the limit, the step has not told of all of them.
    """

    found: list[Job]
    reached: UUID | None


async def plan(conn: Connection, tenant: str, wanted: JobFilter) -> SearchPlan:
    """How to search."""
    root = await _root(conn, tenant, wanted)
    indexed = None if wanted.metadata is None else await metadata_index.find(conn, wanted.metadata)
    if wanted.batch_id is not None:
        every: tuple[Source, ...] = ("batch",)
    else:
        every = ("tenant",) if root is None else ("family", "root")
    return SearchPlan(
        tenant=tenant, wanted=wanted, every=every, narrow=_narrow(wanted), root=root,
        floor=await _floor(conn, wanted), ceiling=_ceiling(wanted),
        pair=None if indexed is None else indexed.pair,
        indexed_from=AFTER_ALL if indexed is None else floor_at(indexed.since, SKEW),
    )  # fmt: skip


async def step(
    conn: Connection, plan: SearchPlan, sources: tuple[Source, ...], before: UUID, size: int, limit: int,
    include: Collection[str] = LARGE,
) -> SearchStep:  # fmt: skip
    """Look at the ids below `before`, as far as `size` rows of each source go. Finds up to `limit` jobs.

    As far as the index of metadata goes, it is read instead of every job. Of `LARGE`, only the fields in `include` are
    read: without them, `payload` is an empty object and `result` None.
    """
    before, floor = min(before, plan.ceiling), plan.floor
    if sources == plan.every and before > plan.indexed_from:
        sources, floor = ("metadata",), max(plan.floor, plan.indexed_from)
    statement, values = _prepare(plan, sources, frozenset(LARGE) - frozenset(include))
    values |= {"before": before, "floor": floor, "step": size, "limit": limit}
    rows = await statement.rows(conn, **values)
    reached = rows[0]["reached"]
    if reached is None and floor > plan.floor:
        reached = floor
    return SearchStep(found=[as_job(row) for row in rows if row["id"] is not None], reached=reached)


def _prepare(
    plan: SearchPlan, sources: tuple[Source, ...], leave_out: frozenset[str]
) -> tuple[Statement, dict[str, Any]]:
    """The statement of each step that reads these sources, with the values that stay the same."""
    given = plan.wanted.given()
    values = values_of(plan.tenant, given) | {
        "root": plan.root, "pair": plan.pair, "floor": plan.floor, "most_leases": MOST_LEASES,
    }  # fmt: skip
    return _statement(sources, frozenset(given), leave_out), values


@lru_cache(maxsize=1024)
def _statement(sources: tuple[Source, ...], given: frozenset[str], leave_out: frozenset[str]) -> Statement:
    """One statement, and so one snapshot: a job that moves from one source to another meanwhile is found once."""
    matches = conditions(given)
    reached = ", ".join(_SOURCES[name].reached for name in sources)
    found = " UNION ALL ".join(f"({_SOURCES[name].found.format(conditions=matches)})" for name in sources)
    return Statement(f"""
WITH reached AS MATERIALIZED (
    SELECT GREATEST({reached}, CAST(NULL AS uuid)) AS id
), horizon AS MATERIALIZED (
    SELECT COALESCE(id, CAST(:floor AS uuid)) AS lowest FROM reached
), found AS MATERIALIZED (
    SELECT DISTINCT id FROM ({found}) AS f ORDER BY id DESC LIMIT :limit
)
SELECT r.id AS reached, j.* FROM reached r LEFT JOIN (
    SELECT w.* FROM found f
    CROSS JOIN LATERAL (SELECT {listed_columns(leave_out)} FROM jobs WHERE id = f.id OFFSET 0) AS w
) AS j ON true ORDER BY j.id DESC
""")


_HOLDERS: tuple[tuple[frozenset[str], tuple[Source, ...]], ...] = (
    (WAITING, ("outbox",)),
    (frozenset({Status.RUNNING}), ("leases",)),
    (frozenset({Status.FAILED}), ("letters", "discarded")),
)
"""Statuses, with the sources that together hold all jobs of these, and few others."""


def _narrow(wanted: JobFilter) -> tuple[Source, ...]:
    """The sources that hold all jobs of the wanted statuses; none if a status has no such source."""
    statuses = set(wanted.statuses or ()) if wanted.error_text is None else {Status.FAILED}
    held = frozenset[str]().union(*(kinds for kinds, _ in _HOLDERS))
    return tuple(name for kinds, names in _HOLDERS for name in names if kinds & statuses) if statuses <= held else ()


async def _root(conn: Connection, tenant: str, wanted: JobFilter) -> UUID | None:
    """The root of whose family all wanted jobs are, if it is known."""
    if wanted.root_id is not None or wanted.parent_id is None:
        return wanted.root_id
    root: UUID | None = await _ROOT.value(conn, id=wanted.parent_id, tenant=tenant)
    return root


async def _floor(conn: Connection, wanted: JobFilter) -> UUID:
    """Below it, everything was created before `created_after`.

    A child has its id from when its parent submits it, and is created with the end of that attempt, however long it
    takes: where there are children, ids tell nothing.
    """
    if wanted.created_after is None or await _ANY_CHILD.value(conn):
        return BEFORE_ALL
    return floor_at(wanted.created_after, -UPLOAD - SKEW)


def _ceiling(wanted: JobFilter) -> UUID:
    """From it on, everything was created after `created_before` or `finished_before`."""
    latest = [moment for moment in (wanted.created_before, wanted.finished_before) if moment is not None]
    return floor_at(min(latest), SKEW) if latest else AFTER_ALL
