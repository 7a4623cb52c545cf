"""Requests that cost much to read or to check: nobody else waits for them, and they take no memory to speak of."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.table import Measured
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.api_attention import forget_peak, held, longest_answer, peak
from tests.support.service.running_service import Running, serving, types_known

LONGEST_HOLD = 0.25
"""Seconds for which the event loop may be held, in whole buckets of the metric. The machine is shared and noisy: an
idle service is late by 0.05 to 0.1 s. What was seen are 1.5 to 28 s."""

MEMORY = 10
"""Times the size of a request."""

SPARE = 48 * 2**20
"""Bytes that a process may grow by whatever the request is."""


@pytest.fixture(scope="module")
async def running(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    name = f"costly_{uuid4().hex}"
    url = database_server.create_database(name, template=database_template)
    async with serving(url, {"ACCEPTED_AUTH": "off"}) as running:
        await types_known(running.client())
        yield running
    database_server.drop_database(name)


def wide(count: int) -> dict[str, Any]:
    return {"additionalProperties": False, "properties": {f"property{n}": {} for n in range(count)}}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"a": {"items": schema}}}


SCHEMAS: dict[str, dict[str, Any]] = {
    "harm.wide": wide(3000),
    "harm.all": items({"allOf": [{} for _ in range(4900)]}),
    "harm.unevaluated": items(
        {"anyOf": [{"properties": {f"p{n}": {}}} for n in range(1000)], "unevaluatedProperties": False}
    ),
    "harm.numbers": items({"type": "integer"}),
}


def job(type: str, payload: str) -> bytes:
    return f'{{"type": "{type}", "payload": {payload}}}'.encode()


def names(count: int) -> str:
    return "{" + ", ".join(f'"proparty{n}": 1' for n in range(count)) + "}"


MIB = 2**20
REQUESTS: dict[str, tuple[str, bytes, int]] = {
    "30 unknown names": ("/jobs", job("harm.wide", names(30)), 422),
    "200 unknown names": ("/jobs", job("harm.wide", names(200)), 422),
    "250 KB of unknown names": ("/jobs", job("sleep", names(15_000)), 422),
    "4,900 parts over 60,000 items": ("/jobs", job("harm.all", f'{{"a": [{"1," * 60_000}1]}}'), 422),
    "unevaluatedProperties": ("/jobs", job("harm.unevaluated", '{"a": [' + "{}," * 60_000 + "{}]}"), 422),
    "60,000 errors": ("/jobs", job("harm.numbers", '{"a": [' + '"",' * 60_000 + '""]}'), 422),
    "1.5 MiB of empty arrays": ("/jobs", job("noop", "[" + "[]," * (MIB // 2) + "[]]"), 422),
    "16 MiB of empty members": ("/batches", b'{"jobs": [' + b"{}," * (5 * MIB) + b"{}]}", 422),
    "16 MiB beside the members": ("/batches", b'{"x": [' + b"{}," * (5 * MIB) + b'{}], "jobs": []}', 413),
    "16 MiB in one member": ("/workflows", b'{"jobs": [{"payload": [' + b"{}," * (5 * MIB) + b"{}]}]}", 413),
}  # fmt: skip


@pytest.fixture(scope="module")
async def types(running: Running) -> None:
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as http:
        for name, schema in SCHEMAS.items():
            answer = await http.put(f"/job-types/{name}", json={"payload_schema": schema})
            assert answer.status_code in (200, 201), answer.text
            await http.post("/jobs", json={"type": name, "payload": {}})


@pytest.mark.fault("F74", moment="as seen: unknown names, parts times items, 16 MiB of {}")
@pytest.mark.parametrize("which", REQUESTS)
async def test_nobody_waits_for_a_costly_request(running: Running, types: None, measured: Measured, which: str) -> None:
    path, body, status = REQUESTS[which]
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as http:
        forget_peak(running)
        late, before = await held(http, LONGEST_HOLD), peak(running)
        asking = asyncio.create_task(longest_answer(running.url))
        answer = await http.post(path, content=body, headers={"content-type": "application/json"})
        asking.cancel()
        longest = await asking
        grown = peak(running) - before
        assert answer.status_code == status, answer.text[:500]
        assert len(answer.content) < 16 * 1024, "what is answered is bounded, too"
        assert await held(http, LONGEST_HOLD) == late, f"the loop was held for more than {LONGEST_HOLD} s"
    measured("others wait", longest, limit=1.0)
    assert grown < MEMORY * len(body) + SPARE
