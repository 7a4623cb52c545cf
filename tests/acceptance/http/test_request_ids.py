"""Every answer names its request, the log names it too, and no log holds a payload or a key."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from tests.support.clients.client import Client
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.running_service import Running
from tests.support.waiting import until

MARKER = f"marker{uuid4().hex}"
TRACE = uuid4().hex


def lines(running: Running, **wanted: object) -> list[dict[str, Any]]:
    """The lines of all processes with these fields."""
    written = [line for one in running.services.values() for line in one.log(1_000_000).splitlines()]
    found = [json.loads(line) for line in written if line.startswith("{") and line.endswith("}")]
    return [line for line in found if wanted.items() <= line.items()]


async def test_every_answer_names_its_request(trio: Running, client: Client) -> None:
    ours, given, trace = f"req/{uuid4()}", [], {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    accepted = await client.http.post("/jobs", json={"type": "noop"}, headers={"x-request-id": ours, **trace})
    job = accepted.json()
    read = await client.get(f"/jobs/{job['id']}/explain", headers={"x-request-id": ours + "2"})
    assert [accepted.headers["x-request-id"], read.headers["x-request-id"]] == [ours, ours + "2"]
    for method, path in (
        ("GET", "/jobs"),
        ("GET", "/nowhere"),
        ("PUT", "/jobs"),
        ("POST", "/jobs"),
        ("HEAD", "/healthz"),
    ):
        for sent in ('"quoted"', "x" * 129, ""):
            answer = await client.http.request(method, path, headers={"x-request-id": sent})
            given.append(answer.headers["x-request-id"])
    assert len({*given}) == len(given) == 15
    assert (await trio.client("wrong").get("/jobs")).headers["x-request-id"]
    reader, writer = await asyncio.open_connection(*trio.url.removeprefix("http://").split(":"))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert b"\r\nx-request-id: " in await reader.read()
    writer.close()

    await client.finished(job["id"])
    submission = {"event": "request", "request_id": ours, "trace_id": TRACE, "job_id": job["id"], "status": 202}
    await until(lambda: lines(trio, **submission), 10, "the line of the submission")
    assert lines(trio, event="request", request_id=ours + "2", job_id=job["id"])
    assert lines(trio, event="attempt", job_id=job["id"], attempt=1, trace_id=TRACE)


async def test_no_line_holds_a_payload_or_a_key(
    trio: Running, client: Client, keys: Mapping[str, str], target: Receiver
) -> None:
    target.respond = lambda request: Answer(200 if "/hook" in request.path else 500)
    failing = {"url": f"{target.url}/?token={MARKER}", "json": {"card": MARKER}, "headers": {"authorization": MARKER}}
    job = await client.submit(
        "http.request", failing, retry={"max_attempts": 1}, callback_url=f"{target.url}/hook?token={MARKER}"
    )
    refused = await client.post({"type": "http.request", "payload": {"uri": MARKER, MARKER: 1}, MARKER: MARKER})
    assert (refused.status_code, (await client.finished(job["id"]))["status"]) == (422, "failed")
    (failed,) = await until(lambda: lines(trio, event="attempt", job_id=job["id"]), 10, "the line of the failure")
    assert (failed["level"], failed["class"], "500" in failed["message"]) == ("warning", "transient", True)
    await until(lambda: any("/hook" in request.path for request in target.requests), 20, "the webhook")
    written = "".join(one.log(1_000_000) for one in trio.services.values())
    assert [secret for secret in (MARKER, keys["acme"], keys["acme"].partition("_")[2]) if secret in written] == []
