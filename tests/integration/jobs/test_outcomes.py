"""The outcomes of a worker: alone where nothing follows from an end, else with all that follows, whoever errs."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.services.jobs.completion import Outcomes
from accepted_worker.runtime.executor import running_attempt
from tests.support.ledger.jobs import claim, put
from tests.support.ledger.sql import rows
from tests.support.ledger.workflows import put_graph, statuses

DELIVERIES = "SELECT payload->>'job_id' AS job_id FROM jobs WHERE type = 'webhook.deliver'"


@pytest.fixture
async def outcomes(engine: AsyncEngine, broker: PostgresBroker) -> AsyncIterator[Outcomes]:
    kept = Outcomes(engine, broker)
    yield kept
    await kept.close()


async def test_an_outcome_is_recorded_once(engine: AsyncEngine, outcomes: Outcomes) -> None:
    await put(engine, 3)
    ends = [transitions.succeeded(running_attempt(one, None), "{}") for one in await claim(engine)]
    assert all(end.running.ends_alone for end in ends)
    assert await asyncio.gather(*map(outcomes.record, ends)) == [True] * 3
    assert await asyncio.gather(*map(outcomes.record, ends)) == [False] * 3
    assert {row["status"] for row in await rows(engine, "SELECT status FROM jobs")} == {"succeeded"}


@pytest.mark.parametrize("believed", [False, True])
async def test_what_follows_is_written_whatever_the_worker_believes(
    engine: AsyncEngine, broker: PostgresBroker, outcomes: Outcomes, believed: bool
) -> None:
    ids = await put_graph(engine, broker, {"a": "", "b": "a"}, callback_url="http://example.com/")
    (first,) = await claim(engine)
    running = running_attempt(first, None)
    assert not running.ends_alone
    end = transitions.succeeded(msgspec.structs.replace(running, ends_alone=believed), "{}")
    assert await outcomes.record(end)
    assert await statuses(engine, ids) == {"a": "succeeded", "b": "queued"}
    assert [row["job_id"] for row in await rows(engine, DELIVERIES)] == [str(first.job.id)]
