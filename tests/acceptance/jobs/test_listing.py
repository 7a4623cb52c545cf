"""GET /jobs and GET /job-types. Contract, section 4."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from tests.support.clients.client import Client, check_job, check_problem

LINK = re.compile(r'^<([^>]+)>; rel="next"$')


def a_queue() -> str:
    return f"list-{uuid4()}"


async def ids(client: Client, **filters: Any) -> list[str]:
    answer = await client.get(f"/jobs?{urlencode(filters)}")
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["items"]]


async def parked(client: Client, queue: str, count: int, **fields: Any) -> list[str]:
    return [(await client.submit("noop", queue=queue, delay=3600, **fields))["id"] for _ in range(count)]


async def test_newest_first(client: Client) -> None:
    queue = a_queue()
    made = await parked(client, queue, 5)
    answer = await client.get(f"/jobs?queue={queue}&include=payload,result")
    assert [job["id"] for job in answer.json()["items"]] == made[::-1]
    assert (answer.json()["next"], answer.json()["complete"]) == (None, True)
    assert "link" not in answer.headers
    for job in answer.json()["items"]:
        check_job(job)
        assert job == await client.job(job["id"])


@pytest.mark.parametrize(
    ("include", "left_out"),
    [(None, {"payload", "result"}), ("payload", {"result"}), ("result", {"payload"}), ("result,payload", set())],
)
async def test_the_large_fields_are_listed_on_request(client: Client, include: str | None, left_out: set[str]) -> None:
    queue = a_queue()
    made = [await client.finish("sleep", {"seconds": 0}, queue=queue) for _ in range(3)]
    query = {"queue": queue, "limit": 2, **({} if include is None else {"include": include})}
    first = await client.get(f"/jobs?{urlencode(query)}")
    link = LINK.match(first.headers["link"])
    assert link is not None, "the next page has them, too"
    second = await client.get(link[1])
    shown = [*first.json()["items"], *second.json()["items"]]
    assert shown == [{name: value for name, value in job.items() if name not in left_out} for job in made[::-1]]


async def test_filters(client: Client) -> None:
    queue = a_queue()
    parked_job = (await parked(client, queue, 1, tags=["red", "blue"]))[0]
    done = (await client.finish("noop", queue=queue, tags=["red"]))["id"]
    slept = (await client.finish("sleep", {"seconds": 0}, queue=queue))["id"]

    assert await ids(client, queue=queue) == [slept, done, parked_job]
    assert await ids(client, queue=queue, status="succeeded") == [slept, done]
    assert await ids(client, queue=queue, status="scheduled") == [parked_job]
    assert await ids(client, queue=queue, status="failed") == []
    assert await ids(client, queue=queue, type="sleep") == [slept]
    assert await ids(client, queue=queue, tag="red") == [done, parked_job]
    assert await ids(client, queue=queue, tag="blue") == [parked_job]
    assert await ids(client, queue=queue, tag="green") == []
    assert await ids(client, queue=queue, tag="red", status="succeeded", type="noop") == [done]
    assert await ids(client, queue=queue, batch_id=str(uuid4())) == []
    assert await ids(client, queue=a_queue()) == []
    assert parked_job in await ids(client, tag="blue")


async def test_filters_by_status_and_by_what_went_wrong(client: Client) -> None:
    queue = a_queue()
    waiting, cancelled = await parked(client, queue, 2)
    assert (await client.http.post(f"/jobs/{cancelled}/cancel")).status_code == 202
    expired = await client.submit("noop", queue=queue, delay=3600, expires_at=soon())
    await client.finished(expired["id"])
    done = (await client.finish("noop", queue=queue))["id"]
    assert await ids(client, queue=queue, status="scheduled,succeeded") == [done, waiting]
    assert await ids(client, queue=queue, status="scheduled,queued,running,blocked,retrying") == [waiting]
    assert await ids(client, queue=queue, status="expired,cancelled") == [expired["id"], cancelled]
    assert await ids(client, queue=queue, error_class="expired") == [expired["id"]]
    assert await ids(client, queue=queue, error_class="invalid") == []
    at = (await client.job(expired["id"]))["finished_at"]
    assert await ids(client, queue=queue, finished_after=at) == [done]
    assert await ids(client, queue=queue, finished_before=at) == [cancelled]


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=1)).isoformat()


async def test_filters_by_metadata(client: Client) -> None:
    queue = a_queue()
    of_7 = (await parked(client, queue, 3, metadata={"customer": "7", "über [a]": "&=?"}))[::-1]
    await parked(client, queue, 1, metadata={"customer": "70"})
    query = {"queue": queue, "metadata[customer]": "7", "limit": 2}
    first = await client.get("/jobs", params=query)
    link = LINK.match(first.headers["link"])
    assert link is not None
    found = [*first.json()["items"], *(await client.get(link[1])).json()["items"]]
    assert [job["id"] for job in found] == of_7
    assert await ids(client, **{"queue": queue, "metadata[über [a]]": "&=?"}) == of_7
    assert await ids(client, **{"queue": queue, "metadata[customer]": "7", "metadata[none]": ""}) == []
    assert await ids(client, queue=queue, root_id=of_7[0]) == of_7[:1]
    assert await ids(client, queue=queue, parent_id=of_7[0]) == []


async def test_filters_by_time(client: Client) -> None:
    queue = a_queue()
    first, second, third = await parked(client, queue, 3)
    at = (await client.job(second))["created_at"]
    after = await ids(client, queue=queue, created_after=at)
    before = await ids(client, queue=queue, created_before=at)
    assert third in after
    assert first not in after
    assert first in before
    assert third not in before
    assert not set(after) & set(before)
    assert await ids(client, queue=queue, created_after="2026-01-01T00:00:00+02:00") == [third, second, first]
    assert await ids(client, queue=queue, created_before="2026-01-01T00:00:00Z") == []


async def test_a_boundary_within_a_millisecond_is_kept(client: Client) -> None:
    """Ids tell milliseconds, `created_at` microseconds: a filter by time is about the second."""
    queue = a_queue()
    for id in await parked(client, queue, 30):
        at = datetime.fromisoformat((await client.job(id))["created_at"])
        just_after, just_before = at + timedelta(microseconds=1), at - timedelta(microseconds=1)
        assert id in await ids(client, queue=queue, created_before=just_after.isoformat())
        assert id in await ids(client, queue=queue, created_after=just_before.isoformat())
        assert id not in await ids(client, queue=queue, created_before=just_before.isoformat())


async def test_a_time_in_the_query_that_is_no_date_of_ours_is_no_500(client: Client) -> None:
    for time in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z"):
        for name in ("created_after", "created_before"):
            assert (await client.get(f"/jobs?{urlencode({name: time})}")).status_code in (200, 422)
    id = (await client.submit("noop"))["id"]
    assert id in await ids(client, created_before="9999-12-31T23:59:59Z")
    assert await ids(client, created_after="9999-12-31T23:59:59.999999Z") == []


async def test_pages_without_gaps_or_doubles_while_new_jobs_arrive(client: Client) -> None:
    queue = a_queue()
    made = await parked(client, queue, 25)
    seen: list[str] = []
    path = f"/jobs?queue={queue}&limit=7"
    newer: list[str] = []
    while path:
        answer = await client.get(path)
        page = answer.json()
        assert len(page["items"]) <= 7
        seen += [job["id"] for job in page["items"]]
        newer += await parked(client, queue, 3)
        link = LINK.match(answer.headers.get("link", ""))
        assert (page["next"] is None) == (link is None)
        path = link[1] if link else ""
        if link:
            by_hand = await client.get(f"/jobs?{urlencode({'queue': queue, 'limit': 7, 'cursor': page['next']})}")
            assert by_hand.json()["items"] == (await client.get(path)).json()["items"]
    assert seen == made[::-1]
    assert not set(seen) & set(newer)


async def test_pages_of_jobs_that_were_accepted_all_at_once(client: Client) -> None:
    queue = a_queue()
    body = {"type": "noop", "queue": queue, "delay": 3600}
    made = {answer.json()["id"] for answer in await asyncio.gather(*(client.post(body) for _ in range(60)))}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get(f"/jobs?{urlencode({'queue': queue, 'limit': 4, **cursor})}")).json()
        seen += [job["id"] for job in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert len(seen) == 60
    assert set(seen) == made


async def test_a_cursor_is_for_its_own_list(client: Client, other: Client) -> None:
    queue = a_queue()
    await parked(client, queue, 4)
    cursor: str = (await client.get(f"/jobs?queue={queue}&limit=2")).json()["next"]

    other_letter = "B" if cursor[5] != "B" else "C"
    for wrong in (
        cursor[:5] + other_letter + cursor[6:],
        cursor[:-1] + ("A" if cursor[-1] != "A" else "w"),
        cursor[:-4],
        cursor + "AAAA",
        "x",
        "%00",
        "ü",
        "AAAA" * 8,
        "A" * 5000,
    ):
        check_problem(await client.get("/jobs", params={"queue": queue, "limit": 2, "cursor": wrong}), 422)
    check_problem(await other.get("/jobs", params={"queue": queue, "limit": 2, "cursor": cursor}), 422)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=1_0",
        "limit=1.0",
        "limit=100000000000000000000",
        "status=done",
        "status=QUEUED",
        "status=",
        "queue=A",
        "queue=%00",
        "type=%00",
        "tag=%00",
        "batch_id=x",
        "root_id=x",
        "parent_id=",
        "status=queued,done",
        "status=queued,",
        "status=queued&status=running",
        "error_class=bad",
        "metadata=x",
        "metadata[]=x",
        "metadata[a]=1&metadata[a]=2",
        "metadata[a]=%00",
        "metadata[a]=" + "x" * 501,
        "metadata[a]=1&metadata=2",
        "metadata[a=1",
        "finished_after=yesterday",
        "finished_before=2026-01-01",
        "created_after=yesterday",
        "created_after=2026-01-01T00:00:00",
        "created_before=1795470326",
        "cursor=",
        "include=",
        "include=payloads",
        "include=payload,payload,result",
        "include=payload,,result",
        "unknown=1",
    ],
)
async def test_a_bad_query_is_422(client: Client, query: str) -> None:
    check_problem(await client.get(f"/jobs?{query}"), 422)


async def test_limits(client: Client) -> None:
    queue = a_queue()
    made = await parked(client, queue, 3)
    assert await ids(client, queue=queue, limit=1) == made[2:]
    assert await ids(client, queue=queue, limit=200) == made[::-1]


async def test_job_types_tell_what_can_be_submitted(client: Client) -> None:
    types = {each["name"]: each for each in (await client.get("/job-types")).json()["items"]}
    built_in = {"noop", "sleep", "http.request", "image.thumbnail", "email.send"}
    assert built_in <= set(types)
    assert "webhook.deliver" not in types
    for each in types.values():
        assert {"name", "description", "queue", "retry", "timeout"} <= set(each)
        assert set(each["retry"]) == {"max_attempts", "schedule", "jitter"}
        (schema,) = (value for name, value in each.items() if "schema" in name)
        if each["name"] in built_in:  # another test may have put a type whose schema is anything
            assert schema["type"] == "object"
    retry = {"max_attempts": 5, "schedule": [30, 300, 1800, 7200], "jitter": 0.2}
    assert types["noop"]["retry"] == retry
    assert "seconds" in str(types["sleep"])
