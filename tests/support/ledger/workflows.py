"""Workflows put into the ledger as the API puts them there, from nothing but who needs whom."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.batch import NewBatch
from accepted.domain.ids import new_id
from accepted.services.batches.submission import BatchSubmission, BatchSubmissions
from tests.support.ledger.jobs import a_job
from tests.support.ledger.sql import rows

DIAMOND: Mapping[str, Iterable[str]] = {"a": "", "b": "a", "c": "a", "d": "bc"}


async def put_graph(
    engine: AsyncEngine, broker: Broker, needs: Mapping[str, Iterable[str]], **fields: Any
) -> dict[str, UUID]:
    """The ids by ref; `needs` names each job after all that it needs. `fields` are those of every job."""
    batch = NewBatch(id=new_id(), tenant=fields.get("tenant", "t"), total=len(needs), workflow=True)
    ids = {ref: new_id() for ref in needs}
    jobs = [
        a_job(id=ids[ref], ref=ref, batch_id=batch.id, blockers=len(list(wanted)), **fields)
        for ref, wanted in needs.items()
    ]
    edges = [(ids[need], ids[ref]) for ref, wanted in needs.items() for need in wanted]
    asked = BatchSubmission(batch=batch, jobs=jobs, queues=frozenset({"q"}), edges=edges)
    await BatchSubmissions(engine, broker, 60).accept(asked)
    return ids


async def statuses(engine: AsyncEngine, ids: Mapping[str, UUID]) -> dict[str, str]:
    found = {row["id"]: row["status"] for row in await rows(engine, "SELECT id, status FROM jobs")}
    return {ref: found[id] for ref, id in ids.items()}
