"""POST /batches as JSON, and GET /batches/{id}, over HTTP: what is accepted, how it is spread, what is refused."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.client import TIME, UUID7, check_problem, from_now
from tests.support.ledger.batches import KEYS, run_times
from tests.support.ledger.sql import rows
from tests.support.service.app_without_auth import application


@pytest.fixture
async def http(engine: AsyncEngine, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with application(engine, database_url, max_payload_bytes=2000) as client:
        yield client


def noops(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"type": "noop", "payload": {"n": number}, **fields} for number in range(count)]


async def accepted(http: httpx.AsyncClient, jobs: list[Any], **options: Any) -> dict[str, Any]:
    answer = await http.post("/batches", json={"jobs": jobs, **options})
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


async def test_a_batch_is_accepted_and_found(http: httpx.AsyncClient) -> None:
    answer = await http.post("/batches", json={"jobs": noops(3)})
    batch = answer.json()
    path = f"/batches/{batch['id']}"
    assert set(batch) == KEYS
    assert UUID7.fullmatch(batch["id"])
    assert TIME.fullmatch(batch["created_at"])
    expected = {"total": 3, "counts": {"queued": 3}, "finished": False, "finished_at": None}
    assert {name: batch[name] for name in expected} == expected
    assert (answer.headers["location"], answer.headers["operation-location"]) == (path, path)
    assert answer.headers["link"] == f'<{path}>; rel="monitor"'
    assert answer.headers["retry-after"] == "1"
    found = await http.get(path)
    assert (found.status_code, found.json(), found.headers["retry-after"]) == (200, batch, "1")


async def test_its_jobs_are_jobs_like_any(http: httpx.AsyncClient) -> None:
    await accepted(http, noops(2))
    batch = await accepted(
        http, [{"type": "noop", "queue": "q", "tags": ["a"]}, {"type": "sleep", "delay": 60, "payload": {"seconds": 1}}]
    )
    asked = {"batch_id": batch["id"], "include": "payload,result"}
    listed = (await http.get("/jobs", params=asked)).json()["items"]
    assert [(job["type"], job["status"], job["batch_id"]) for job in listed] == [
        ("sleep", "scheduled", batch["id"]), ("noop", "queued", batch["id"]),
    ]  # fmt: skip
    assert (await http.get(f"/jobs/{listed[0]['id']}")).json() == listed[0]
    page = (await http.get("/jobs", params={"batch_id": batch["id"], "limit": 1})).json()
    assert [job["id"] for job in page["items"]] == [listed[0]["id"]]
    more = (await http.get("/jobs", params={"batch_id": batch["id"], "limit": 1, "cursor": page["next"]})).json()
    assert [job["id"] for job in more["items"]] == [listed[1]["id"]]
    assert (await http.get("/jobs", params={"batch_id": str(uuid4())})).json()["items"] == []


async def test_ten_thousand(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    batch = await accepted(http, noops(10_000), spread_over=3600)
    assert batch["total"] == 10_000
    times = await run_times(engine)
    start = datetime.fromisoformat(batch["created_at"])
    assert times == [start + timedelta(seconds=3600 * number / 10_000) for number in range(10_000)]
    refused = await http.post("/batches", json={"jobs": noops(10_001)})
    check_problem(refused, 422, "/jobs")


async def test_spread_from_a_moment_on(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    start = from_now(3600)
    batch = await accepted(http, noops(7), spread_over=60.5, start_at=start)
    assert batch["counts"] == {"scheduled": 7}
    begin = datetime.fromisoformat(start)
    assert await run_times(engine) == [begin + timedelta(seconds=60.5 * number / 7) for number in range(7)]


async def test_start_at_alone_is_for_all(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    start = from_now(3600)
    await accepted(http, noops(3), start_at=start)
    assert await run_times(engine) == [datetime.fromisoformat(start)] * 3


async def test_members_of_one_key_wait_for_each_other(http: httpx.AsyncClient) -> None:
    batch = await accepted(http, [*noops(3, ordering_key="k"), *noops(2)])
    assert batch["counts"] == {"queued": 3, "blocked": 2}


NONSENSE: list[tuple[Any, str, str]] = [
    ({}, "/jobs", "required"),
    ({"jobs": []}, "/jobs", ""),
    ({"jobs": {}}, "/jobs", "array"),
    ({"jobs": [7]}, "/jobs/0", "object"),
    ({"jobs": [{"type": "noop"}, {"type": "noup"}]}, "/jobs/1/type", "noop"),
    ({"jobs": [*noops(3), {"type": "http.request", "payload": {}}]}, "/jobs/3/payload/url", "required"),
    ({"jobs": [{"type": "noop", "priorty": 1}]}, "/jobs/0/priorty", "priority"),
    ({"jobs": [{"type": "noop", "unique": {"key": "k", "until": "started"}}]}, "/jobs/0/unique", "not allowed"),
    ({"jobs": noops(1, delay=1), "spread_over": 60}, "/jobs/0/delay", "batch says"),
    ({"jobs": noops(1, run_at=from_now(9)), "start_at": from_now(9)}, "/jobs/0/run_at", "batch says"),
    ({"jobs": noops(1), "spread_over": -1}, "/spread_over", ""),
    ({"jobs": noops(1), "spread_over": "60"}, "/spread_over", ""),
    ({"jobs": noops(1), "spread": 60}, "/spread", "spread_over"),
    ({"jobs": noops(1), "start_at": "tomorrow"}, "/start_at", "RFC 3339"),
    ({"jobs": noops(1), "start_at": from_now(367 * 86400)}, "/start_at", "366 days"),
    ({"jobs": noops(1), "start_at": from_now(360 * 86400), "spread_over": 7 * 86400}, "/spread_over", "366 days"),
    ({"jobs": noops(1), "callback_url": "ftp://example.com"}, "/callback_url", ""),
    ({"jobs": noops(1), "on_failure": "stop"}, "/on_failure", ""),
]  # fmt: skip


async def test_nonsense_is_refused_whole(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    for body, pointer, says in NONSENSE:
        check_problem(await http.post("/batches", json=body), 422, pointer, says)
    for table in ("jobs", "outbox", "batches", "idempotency_keys"):
        assert await rows(engine, f"SELECT 1 FROM {table}") == []


async def test_the_first_hundred_errors_are_told(http: httpx.AsyncClient) -> None:
    answer = await http.post("/batches", json={"jobs": [{"type": "noop", "queue": "No"}] * 300})
    errors = check_problem(answer, 422)["errors"]
    assert [error["pointer"] for error in errors] == [f"/jobs/{number}/queue" for number in range(100)]


async def test_other_refusals(http: httpx.AsyncClient) -> None:
    large = await http.post("/batches", json={"jobs": [{"type": "noop", "payload": {"x": "y" * 3000}}]})
    assert "/jobs/0" in check_problem(large, 413)["detail"]
    check_problem(await http.post("/batches", content=b"x", headers={"content-type": "text/plain"}), 415)
    check_problem(await http.post("/batches", content=b"{", headers={"content-type": "application/json"}), 400)
    check_problem(await http.post("/batches?spread_over=5", json={"jobs": noops(1)}), 422, "/spread_over")
    check_problem(await http.post("/batches?spread_ovr=5", json={"jobs": noops(1)}), 422, "/spread_ovr", "spread_over")
    check_problem(await http.get(f"/batches/{uuid4()}"), 404)
    check_problem(await http.get("/batches/x"), 404)
    check_problem(await http.get("/batches/01890000-0000-7000-8000-000000000000"), 410)


async def test_a_key_stands_for_one_batch(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    body, key = {"jobs": noops(30)}, {"idempotency-key": "k"}
    answers = await asyncio.gather(*(http.post("/batches", json=body, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers].count(None) == 1
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 30
    again = await http.post("/batches", json={"jobs": list(body["jobs"])}, headers={"idempotency-key": '"k"'})
    assert (again.headers["idempotent-replayed"], again.headers["location"]) == ("true", answers[0].headers["location"])
    check_problem(await http.post("/batches", json={"jobs": noops(29)}, headers=key), 422)
    check_problem(await http.post("/jobs", json={"type": "noop"}, headers=key), 422)
    assert (await http.post("/jobs", json={"type": "noop"}, headers={"idempotency-key": "j"})).status_code == 202
    check_problem(await http.post("/batches", json=body, headers={"idempotency-key": "j"}), 422)


async def test_a_refused_batch_leaves_its_key_free(http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k"}
    check_problem(await http.post("/batches", json={"jobs": [{"type": "nope"}]}, headers=key), 422)
    assert (await http.post("/batches", json={"jobs": noops(1)}, headers=key)).status_code == 202
