"""Traces over OTLP, from real processes to a real receiver. docs/decisions/0030."""

from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import uuid4

import pytest

from tests.support.clients.client import Client
from tests.support.handlers.traced import SECRET
from tests.support.servers.otlp import ReceivedSpan, TraceReceiver
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import Running, serving, types_known
from tests.support.waiting import until

CALLER = "00f067aa0ba902b7"
"""The span id of the submitter."""


class Traced(NamedTuple):
    running: Running
    traces: TraceReceiver


@pytest.fixture(scope="module")
async def traced(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Traced]:
    name = f"module_{uuid4().hex}"
    async with TraceReceiver() as traces:
        env = {
            "ACCEPTED_AUTH": "off",
            "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.traced",
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        async with serving(database_server.create_database(name, template=database_template), env) as running:
            await types_known(running.client())
            yield Traced(running, traces)
    database_server.drop_database(name)


async def finished(client: Client, sampled: bool, **body: object) -> tuple[str, dict[str, object]]:
    """The trace id of a submission, and its job, which has ended."""
    trace_id = uuid4().hex
    sent = f"00-{trace_id}-{CALLER}-0{int(sampled)}"
    answer = await client.post({"type": "noop", **body}, traceparent=sent)
    assert answer.status_code == 202, answer.text
    return trace_id, await client.finished(answer.json()["id"])


async def spans(traces: TraceReceiver, trace_id: str, *names: str) -> list[ReceivedSpan]:
    """All spans of this trace, as soon as they have these names."""

    def came() -> list[ReceivedSpan] | None:
        found = traces.spans(trace_id)
        return found if sorted(one.name for one in found) == sorted(names) else None

    return await until(came, 20, f"{names}, not {[one.name for one in traces.spans(trace_id)]}")


async def test_a_job_is_one_trace_from_its_submission_to_its_children(traced: Traced) -> None:
    trace_id, job = await finished(
        traced.running.client(), True, type="traced.steps", queue="steps", payload={"a": SECRET}
    )
    found = await spans(
        traced.traces, trace_id,
        "POST /jobs", "send steps", "process steps", "process steps", "attempt traced.steps", "attempt traced.steps",
        "own", "own", "own in a step", "step charge", "process default", "attempt traced.thread", "own in a thread",
    )  # fmt: skip
    one = {span.name: span for span in found}
    request, send, step = one["POST /jobs"], one["send steps"], one["step charge"]
    first, second = sorted(
        (span for span in found if span.name == "process steps"),
        key=lambda span: span.attributes["accepted.job.attempt"],
    )
    attempts = {span.parent_id: span for span in found if span.name == "attempt traced.steps"}

    assert (request.kind, request.parent_id, request.resource["service.name"]) == ("SERVER", CALLER, "accepted-api")
    assert request.attributes["http.route"] == "/jobs"
    assert request.attributes["http.response.status_code"] == 202
    assert (send.kind, send.parent_id) == ("PRODUCER", request.span_id)
    messaging = {
        "messaging.system": "accepted", "messaging.destination.name": "steps", "messaging.message.id": job["id"],
    }  # fmt: skip
    for span, operation in ((send, "send"), (first, "process"), (second, "process")):
        assert messaging.items() <= span.attributes.items()
        assert span.attributes["messaging.operation.type"] == span.attributes["messaging.operation.name"] == operation
    for span, error in ((first, "transient"), (second, None)):
        assert (span.kind, span.links, span.parent_id) == ("CONSUMER", [send.span_id], send.span_id)
        assert span.resource["service.name"] == "accepted-worker"
        for each in (span, attempts[span.span_id]):
            assert (each.failed, each.attributes.get("error.type")) == (error is not None, error)
    own = {span.span_id: span for span in found if span.name == "own"}
    assert own[step.parent_id].parent_id == attempts[first.span_id].span_id
    assert one["own in a step"].parent_id == step.span_id
    assert one["process default"].links == [attempts[second.span_id].span_id]
    assert one["own in a thread"].parent_id == one["attempt traced.thread"].span_id
    assert SECRET.encode() not in b"".join(request.body for request in traced.traces.requests)


async def test_calls_and_webhooks_go_on_in_the_trace(traced: Traced, target: Receiver) -> None:
    call = {"type": "http.request", "payload": {"url": f"{target.url}/secret?token=1"}}
    trace_id, _ = await finished(traced.running.client(), True, **call, callback_url=f"{target.url}/hook")
    await until(lambda: len(target.requests) == 2, 20, "the call and the webhook")
    found = await spans(
        traced.traces, trace_id, "POST /jobs", "send default", "process default", "attempt http.request", "GET",
        "process webhooks", "attempt webhook.deliver", "POST",
    )  # fmt: skip
    by_name = {span.name: span for span in found}
    for request in target.requests:
        client = by_name[request.method]
        assert request.headers["traceparent"] == f"00-{trace_id}-{client.span_id}-01"
        assert client.kind == "CLIENT"
        assert client.attributes["server.port"] == target.port
        assert client.attributes["http.response.status_code"] == 200
        assert "secret" not in str(client)
    assert by_name["process webhooks"].links == [by_name["send default"].span_id]


async def test_what_the_caller_does_not_sample_has_no_spans_and_keeps_its_trace(
    traced: Traced, target: Receiver
) -> None:
    client = traced.running.client()
    trace_id, _ = await finished(client, False, type="http.request", payload={"url": target.url})
    (request,) = target.requests
    assert request.headers["traceparent"] == f"00-{trace_id}-{CALLER}-00"
    after, _ = await finished(client, True)
    await spans(traced.traces, after, "POST /jobs", "send default", "process default", "attempt noop")
    assert traced.traces.spans(trace_id) == []


async def test_without_an_exporter_the_caller_s_context_is_sent_on(client: Client, target: Receiver) -> None:
    call = {"type": "http.request", "payload": {"url": target.url}}
    trace_id, _ = await finished(client, True, **call, callback_url=target.url)
    await until(lambda: len(target.requests) == 2, 20, "the call and the webhook")
    assert {one.headers["traceparent"] for one in target.requests} == {f"00-{trace_id}-{CALLER}-01"}
