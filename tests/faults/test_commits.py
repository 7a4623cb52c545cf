"""COMMIT fails, or nobody hears that it did not: no 202 without a job, and one job a key in every case."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.support.servers.proxy import Direction, Proxy

REFUSE_AT_COMMIT = """
CREATE TABLE weather (stormy bool NOT NULL);
INSERT INTO weather VALUES (true);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.payload->>'poison' IS NOT NULL AND (SELECT stormy FROM weather) THEN
        RAISE EXCEPTION 'refused at commit' USING ERRCODE = NEW.payload->>'poison';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_at_commit AFTER INSERT ON jobs
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""

DISK_FULL = "53100"
NO_OUTAGE = "P0001"  # what any trigger raises
JOBS_OF = "SELECT count(*) FROM jobs WHERE metadata->>'key' = $1"
KEYS_OF = "SELECT count(*) FROM idempotency_keys WHERE key = $1"


@pytest.mark.fault("F03", moment="at COMMIT")
@pytest.mark.parametrize("code", [DISK_FULL, NO_OUTAGE])
async def test_a_commit_that_fails_leaves_nothing_and_the_key_free(
    code: str, cluster: Cluster, client: Client, ledger: Ledger
) -> None:
    await cluster.start(workers=1)
    await ledger.execute(REFUSE_AT_COMMIT)

    refused = await client.submit({"poison": code})

    assert refused.status in (500, 503)
    if code == DISK_FULL:
        assert refused.status == 503
        assert refused.retry_after is not None
    assert await ledger.value(JOBS_OF, refused.key) == 0
    assert await ledger.value(KEYS_OF, refused.key) == 0
    await ledger.execute("UPDATE weather SET stormy = false")
    await client.accept({"poison": code}, key=refused.key)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F03", moment="at COMMIT")
async def test_a_poisoned_member_of_a_batch_fails_alone(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start(workers=1)
    await ledger.execute(REFUSE_AT_COMMIT)
    calls = await asyncio.gather(*(client.submit({"poison": NO_OUTAGE} if n % 10 == 0 else {}) for n in range(50)))
    assert [call.accepted for call in calls] == [n % 10 != 0 for n in range(50)]
    jobs = await check(ledger, client, cluster.journal)
    assert len(jobs) == 45


@pytest.mark.fault("F03", moment="before COMMIT")
async def test_a_link_cut_before_the_commit(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    async with _behind_proxy(cluster, ledger) as proxy:
        await cluster.start(workers=1)
        proxy.watch = _on_commit("up", proxy.cut)

        refused = await client.submit()

        assert refused.status == 503
        assert await ledger.value(JOBS_OF, refused.key) == 0
        proxy.watch = None
        await proxy.heal()
        job_id = await client.accept(key=refused.key)
        assert not next(call for call in client.calls if call.job_id == job_id).replayed
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F02", moment="after COMMIT")
async def test_a_link_cut_after_the_commit(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    """The job is there, and nobody was told: the same key finds it."""
    async with _behind_proxy(cluster, ledger) as proxy:
        await cluster.start(workers=1)
        proxy.watch = _on_commit("down", proxy.cut)

        refused = await client.submit()

        assert refused.status == 503
        assert await ledger.value(JOBS_OF, refused.key) == 1
        proxy.watch = None
        await proxy.heal()
        job_id = await client.accept(key=refused.key)
        assert next(call for call in client.calls if call.job_id == job_id).replayed
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F04", moment="after COMMIT")
async def test_no_202_before_the_commit_is_answered(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    """While the ledger's answer to COMMIT is on its way, the client waits too."""
    async with _behind_proxy(cluster, ledger) as proxy:
        await cluster.start(workers=1)
        held = asyncio.Event()
        proxy.watch = _on_commit("down", lambda: (proxy.blackhole("down"), held.set()))
        waiting = asyncio.create_task(client.submit())
        await asyncio.wait_for(held.wait(), 15)
        done, _ = await asyncio.wait([waiting], timeout=1)
        assert not done, f"answered before the COMMIT was: {waiting.result()}"
        proxy.watch = None
        await proxy.heal()
        assert (await waiting).accepted
        await check(ledger, client, cluster.journal)


@contextlib.asynccontextmanager
async def _behind_proxy(cluster: Cluster, ledger: Ledger) -> AsyncIterator[Proxy]:
    """The API, and only the API, reaches the ledger through the proxy."""
    async with Proxy(ledger.url) as proxy:
        cluster.api_env["ACCEPTED_DATABASE_URL"] = proxy.url_for(ledger.url)
        yield proxy


def _on_commit(direction: Direction, then: object) -> object:
    """The statement that commits itself goes up with its jobs in it; its answer has the first status of a job in it."""
    marks = {"up": b'"max_attempts":', "down": b"queued"}
    seen: list[str] = []

    def watch(where: Direction, chunk: bytes) -> None:
        if marks[where] in chunk and where not in seen and (where == "up" or "up" in seen):
            seen.append(where)
            if where == direction:
                then()  # type: ignore[operator]

    return watch
