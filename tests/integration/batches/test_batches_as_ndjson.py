"""POST /batches as NDJSON, over HTTP: what is accepted, and what is refused, with the number of its line."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.services.batches import ndjson, spool
from tests.support.clients.client import check_problem, from_now
from tests.support.ledger.batches import KEYS, run_times
from tests.support.ledger.sql import rows
from tests.support.service.app_without_auth import application

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
async def http(engine: AsyncEngine, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with application(engine, database_url, max_payload_bytes=2000) as client:
        yield client


def line(number: int = 0, **fields: Any) -> bytes:
    return json.dumps({"type": "noop", "payload": {"n": number}, **fields}).encode()


async def send(http: httpx.AsyncClient, lines: Iterable[bytes], key: str = "", **query: Any) -> httpx.Response:
    """In chunks that end anywhere in a line."""
    body = b"\n".join(lines)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    headers = NDJSON | ({"idempotency-key": key} if key else {})
    return await http.post("/batches", content=pieces(), headers=headers, params=query)


async def nothing_is_stored(engine: AsyncEngine) -> bool:
    tables = ("jobs", "outbox", "batches", "idempotency_keys")
    return not any([await rows(engine, f"SELECT 1 FROM {table}") for table in tables])


async def test_lines_become_jobs(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    lines = [line(0, tags=["é"]), b"", line(1, queue="other", delay=60), b" \r", line(2, metadata={"a": "b"}) + b"\r"]
    answer = await send(http, lines)
    batch = answer.json()
    assert (answer.status_code, set(batch)) == (202, KEYS)
    assert (batch["total"], batch["counts"]) == (3, {"queued": 2, "scheduled": 1})
    assert answer.headers["location"] == f"/batches/{batch['id']}"
    listed = (await http.get("/jobs", params={"batch_id": batch["id"], "include": "payload"})).json()["items"]
    assert [(job["payload"]["n"], job["queue"], job["tags"], job["metadata"]) for job in listed] == [
        (2, "default", [], {"a": "b"}), (1, "other", [], {}), (0, "default", ["é"], {}),
    ]  # fmt: skip


async def test_the_options_are_in_the_query(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    start = from_now(3600)
    answer = await send(
        http, map(line, range(1200)), spread_over="60.5", start_at=start, on_failure="cancel",
        callback_url="http://example.com/",
    )  # fmt: skip
    assert answer.json()["counts"] == {"scheduled": 1200}
    begin = datetime.fromisoformat(start)
    assert await run_times(engine) == [begin + timedelta(seconds=60.5 * number / 1200) for number in range(1200)]
    (row,) = await rows(engine, "SELECT on_failure, callback_url FROM batches")
    assert dict(row) == {"on_failure": "cancel", "callback_url": "http://example.com/"}


WRONG: list[tuple[list[bytes], dict[str, str], int, str, str]] = [
    ([], {}, 422, "", "one line"),
    ([b"", b""], {}, 422, "", "one line"),
    ([line(), b"{"], {}, 400, "/2", "line 2: it is not valid JSON (column 2)"),
    ([line(), b'{"type":"noop","payload":{"x":NaN}}'], {}, 400, "/2", "line 2: "),
    ([line(), b"\xff"], {}, 400, "/2", "line 2: it is not UTF-8"),
    ([b"", line(), b'{"type":"http.request"}'], {}, 422, "/3/payload/url", "line 3: "),
    ([line(), b"[]"], {}, 422, "/2", "line 2: "),
    ([line(), b'{"type":"noop","payload":{"x":"\\u0000"}}'], {}, 422, "/2/payload/x", "line 2: "),
    ([line(), b"[" * 99], {}, 422, "/2", "line 2: "),
    ([line(), line(1, unique={"key": "k"})], {}, 422, "/2/unique", "line 2: "),
    ([line(), line(1, delay=1)], {"spread_over": "9"}, 422, "/2/delay", "line 2: "),
    ([line()], {"spread_over": "nan"}, 422, "/spread_over", ""),
    ([line()], {"spread_over": "soon"}, 422, "/spread_over", ""),
    ([line()], {"spread": "9"}, 422, "/spread", "spread_over"),
    ([line()], {"start_at": from_now(367 * 86400)}, 422, "/start_at", "366"),
    ([line()], {"callback_url": "ftp://example.com/"}, 422, "/callback_url", ""),
    ([line()], {"on_failure": "explode"}, 422, "/on_failure", ""),
]


async def test_lines_with_a_key_are_no_more_than_a_large_body_holds(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    keyed = line(0, ordering_key="k")
    check_problem(await send(http, [*map(line, range(10_000)), keyed]), 413)
    check_problem(await send(http, [keyed, *map(line, range(10_000))]), 413)
    assert await nothing_is_stored(engine)
    answer = await send(http, [keyed, *map(line, range(9_998)), keyed])
    assert answer.json()["counts"] == {"queued": 9_999, "blocked": 1}


async def test_a_bad_line_takes_all_with_it(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    for lines, query, status, pointer, says in WRONG:
        check_problem(await send(http, lines, "k", **query), status, pointer, says)
    many = [line(number) for number in range(3000)]
    check_problem(await send(http, [*many, line(queue="No"), *many], "k"), 422, "/3001/queue", "line 3001: ")
    check_problem(await send(http, [line(), line(x="y" * 3000)], "k"), 422, "/2/x", "unknown")
    assert "line 2: " in check_problem(await send(http, [line(), line(payload={"x": "y" * 3000})]), 413)["detail"]
    assert "line 2 is larger" in check_problem(await send(http, [line(), b" " * 99_000]), 413)["detail"]
    assert await nothing_is_stored(engine)
    assert (await send(http, many, "k")).status_code == 202


async def test_a_batch_of_bad_lines_alone(http: httpx.AsyncClient) -> None:
    answer = await send(http, [b'{"type": "noop", "payload": {"a": "\\u0000"}}', b""])
    check_problem(answer, 422, "/1/payload/a", "line 1: ")
    check_problem(await send(http, [b"", b""]), 422, "", "needs at least one line")


async def test_the_first_hundred_errors_are_told_and_no_more_is_read(http: httpx.AsyncClient) -> None:
    problem = check_problem(await send(http, [line(), b"{"] * 70 + [line(queue="No")] * 500), 400)
    assert [error["pointer"] for error in problem["errors"]][:70] == [f"/{2 * n}" for n in range(1, 71)]
    assert [error["pointer"] for error in problem["errors"]][70:] == [f"/{n}/queue" for n in range(141, 171)]


async def test_more_lines_than_a_batch_may_have(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "MAX_LINES", 10)
    assert (await send(http, map(line, range(10)))).status_code == 202
    check_problem(await send(http, map(line, range(11))), 413)
    monkeypatch.setattr(spool, "MAX_KEPT", 1000)
    check_problem(await send(http, map(line, range(10))), 413)


async def test_a_disk_that_is_full(
    http: httpx.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = partial(open, "/dev/full", "w+b")
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", lambda **_: full())
    refused = await send(http, map(line, range(9000)))
    assert check_problem(refused, 503)["type"] == "/problems/no-room"
    assert int(refused.headers["retry-after"]) > 0
    assert await nothing_is_stored(engine)
    assert (await send(http, map(line, range(10)))).status_code == 202, "a small batch needs no disk"


async def test_a_key_stands_for_its_lines(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    lines = [line(number) for number in range(600)]
    answers = await asyncio.gather(*(send(http, lines, "k") for _ in range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers].count("true") == 3
    spelled = [json.dumps(json.loads(one), separators=(" ,", ": ")).encode() for one in lines]
    assert (await send(http, [b"", *spelled], "k")).headers["idempotent-replayed"] == "true"
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 600
    check_problem(await send(http, lines[:-1], "k"), 422)
    check_problem(await send(http, lines[::-1], "k"), 422)
    check_problem(await send(http, lines, "k", spread_over="1"), 422)
    check_problem(await http.post("/jobs", json=json.loads(lines[0]), headers={"idempotency-key": "k"}), 422)


async def longest_turn(work: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    """The result of `work`, and the longest that others waited for the event loop meanwhile, in seconds of its CPU
    time: neither how busy the machine is counts, nor looking through what pytest has in memory."""
    gc.disable()
    task, longest, last = asyncio.ensure_future(work), 0.0, time.thread_time()
    while not task.done():
        await asyncio.sleep(0)
        longest, last = max(longest, time.thread_time() - last), time.thread_time()
    gc.enable()
    return await task, longest


async def test_nobody_is_held_up_by_a_large_batch(http: httpx.AsyncClient) -> None:
    """Checking takes about half a second, in slices. Parsing 10,000 members as one JSON text is not sliced."""
    lines = b"\n".join(map(line, range(10_000)))
    for content, type_, most in (
        (lines, "application/x-ndjson", 0.05),
        (b'{"jobs":[%b]}' % lines.replace(b"\n", b","), "application/json", 0.15),
    ):
        request = http.post("/batches", content=content, headers={"content-type": type_})
        answer, longest = await longest_turn(request)
        assert answer.status_code == 202
        assert longest < most, type_
