"""Batches, workflows and webhooks through the client."""

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

import accepted
from accepted.client import batches
from accepted.client.errors import NotPermitted, ValidationFailed, WaitTimeout
from accepted.client.fields import BatchFields
from tests.support.clients.either import EitherClient, either
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import Running

LATER = 3600.0


@accepted.job("noop")
async def noop(payload: dict[str, Any], ctx: accepted.Context) -> None: ...


@pytest.mark.parametrize("most_as_json", [1000, 1])
async def test_a_batch_is_one_submission(
    it: EitherClient, queue: str, most_as_json: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_AS_JSON", most_as_json)  # above it: NDJSON
    members = [{"type": noop, "payload": {"n": 1}, "queue": queue}, {"type": "noop", "queue": queue, "timeout": None}]
    key = f"{queue}-{most_as_json}"
    batch = await it(lambda c: c.batch(members, spread_over=0.2, idempotency_key=key))
    again = await it(lambda c: c.batch(members, spread_over=0.2, idempotency_key=key))
    assert (batch.id, batch.total) == (again.id, 2)
    assert await it(lambda _: batch.wait(timeout=30)) is batch
    assert (batch.succeeded, batch.counts, batch.jobs) == (True, {"succeeded": 2}, [])
    assert len(await it.all(lambda c: c.jobs(batch_id=batch.id))) == 2
    with pytest.raises(ValidationFailed) as refused:
        await it(lambda c: c.batch([{"type": "noop"}, {"type": "noop", "priority": 12}]))
    assert [one.pointer.rpartition("/")[2] for one in refused.value.errors] == ["priority"]


async def test_a_batch_can_be_waited_for_and_cancelled(it: EitherClient) -> None:
    batch = await it(lambda c: c.batch({"type": "noop", "delay": LATER} for _ in range(2)))
    with pytest.raises(WaitTimeout, match=r"within 0\.1 s"):
        await it(lambda _: batch.wait(timeout=0.1))
    await it(lambda _: batch.cancel())
    found = await it(lambda c: c.get_batch(batch.id))
    await it(lambda _: found.wait(timeout=30))
    assert (found.succeeded, found.counts) == (False, {"cancelled": 2})
    assert (await it(lambda _: batch.refresh())).document == found.document


async def test_a_workflow_is_written_job_by_job(it: EitherClient) -> None:
    def write(flow: Any) -> None:
        first = flow.add(noop, {"n": 1})
        second = flow.add("noop", after=[first], priority=5)
        assert (first, second) == ("noop", "noop-2")
        flow.add("noop", ref="last", after=[first, second])
        with pytest.raises(ValueError, match="last"):
            flow.add("noop", ref="last")

    flow = await _written(it, write)
    assert {one["ref"]: one["depends_on"] for one in flow.batch.jobs} == {
        "noop": [], "noop-2": ["noop"], "last": ["noop", "noop-2"],
    }  # fmt: skip
    assert (await it(lambda _: flow.batch.wait(timeout=30))).succeeded


async def test_a_workflow_that_is_not_written_to_its_end_is_not_submitted(it: EitherClient, queue: str) -> None:
    def write(flow: Any) -> None:
        flow.add("noop", queue=queue)
        raise LookupError

    with pytest.raises(LookupError):
        await _written(it, write)
    assert await it.all(lambda c: c.jobs(queue=queue)) == []


async def _written(it: EitherClient, write: Any) -> Any:
    flow = it.client.workflow(on_failure="cancel")

    def blocking(_: Any) -> None:
        with flow:
            write(flow)

    async def loop(_: Any) -> None:
        async with flow:
            write(flow)

    await it(blocking if isinstance(flow, contextlib.AbstractContextManager) else loop)
    return flow


async def test_webhooks_are_verified(it: EitherClient, trio: Running, keys: Mapping[str, str]) -> None:
    """With a key that can do nothing else."""
    async with either(True, trio.url, keys["receiver"]) as receiving:
        secrets = await receiving(lambda c: c.webhook_secrets())
        with pytest.raises(NotPermitted, match="jobs:write"):
            await receiving(lambda c: c.submit("noop"))
    assert secrets == await it(lambda c: c.webhook_secrets())
    async with Receiver() as receiver:
        job = await it(lambda c: c.submit("noop", {"n": 7}, callback_url=receiver.url))
        batch = await it(lambda c: c.batch([{"type": "noop"}], callback_url=receiver.url))
        requests = await receiver.wait_for(2, timeout=60)
    found = {one.type: one for one in (accepted.webhooks.verify(each.body, each.headers, secrets) for each in requests)}
    assert (found["job.succeeded"].job.id, found["job.succeeded"].job.payload) == (job.id, {"n": 7})
    assert found["batch.finished"].batch.id == batch.id
    assert isinstance(found["batch.finished"].batch, BatchFields)
    with pytest.raises(accepted.webhooks.WebhookRefused):
        accepted.webhooks.verify(requests[0].body + b" ", requests[0].headers, secrets)
