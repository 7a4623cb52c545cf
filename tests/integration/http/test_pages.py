"""Pages are bounded in bytes as well: `next` goes on where a page has ended, and nothing is left out or doubled."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.api.http.parameters import PAGE_BYTES, in_chunks
from accepted.domain.failures import FailureClass
from accepted.services.manual_retry import EditedPayload, replay
from tests.support.clients.client import Client
from tests.support.ledger.dead_letters import ended_as, fail, read, run_again
from tests.support.ledger.jobs import put
from tests.support.ledger.sql import do
from tests.support.ledger.webhook_deliveries import delivered

LARGE = 200_000


def of_size(size: int) -> str:
    return f'{{"text": "{"x" * size}"}}'


async def pages(client: Client, path: str) -> list[tuple[int, list[Any]]]:
    """Every page of a list: how many bytes it has, and its items."""
    found = []
    following: str | None = path
    while following is not None:
        answer = await client.get(following)
        assert answer.status_code == 200, answer.text
        found.append((len(answer.content), answer.json()["items"]))
        link = answer.headers.get("link")
        assert (link is None) == (answer.json()["next"] is None)
        following = None if link is None else link[1 : link.index(">")]
    return found


async def test_large_fields_end_a_page(client: Client, engine: AsyncEngine) -> None:
    made = await put(engine, 30, payload=of_size(LARGE)) + await put(engine, 5)
    found = await pages(client, "/jobs?limit=200&include=payload,result")
    assert [job["id"] for _, items in found for job in items] == [str(id) for id in sorted(made, reverse=True)]
    assert all(size <= PAGE_BYTES + 1000 for size, _ in found), [size for size, _ in found]
    assert len(found) == 3, "as much as fits is in each page"
    assert {len(items) for _, items in found[1:-1]} == {PAGE_BYTES // LARGE}
    ((size, items),) = await pages(client, "/jobs?limit=200")
    assert (len(items), size < 40_000) == (35, True)
    assert not any({"payload", "result"} & set(job) for job in items)


async def test_one_item_is_on_every_page_however_large(client: Client, engine: AsyncEngine) -> None:
    made = await put(engine, 3, payload=of_size(PAGE_BYTES + 1))
    found = await pages(client, "/jobs?include=payload")
    assert [[job["id"] for job in items] for _, items in found] == [[str(id)] for id in sorted(made, reverse=True)]
    assert await pages(client, "/jobs?include=payload&limit=1") == found


async def test_a_page_ends_where_limit_says_if_that_comes_first(client: Client, engine: AsyncEngine) -> None:
    await put(engine, 7, payload=of_size(1000))
    found = await pages(client, "/jobs?limit=3&include=payload")
    assert [len(items) for _, items in found] == [3, 3, 1]


async def test_schedules_with_large_jobs(client: Client) -> None:
    job = {"type": "noop", "payload": {"text": "x" * LARGE}}
    names = [f"s{number:02}" for number in range(14)]
    for name in names:
        answer = await client.http.put(f"/schedules/{name}", json={"cron": "0 0 1 1 *", "job": job})
        assert answer.status_code == 201
    found = await pages(client, "/schedules?limit=200")
    assert [one["name"] for _, items in found for one in items] == names
    assert [len(items) for _, items in found] == [10, 4]


async def test_the_small_items_of_other_lists_fit_where_their_limit_says(client: Client, engine: AsyncEngine) -> None:
    await fail(engine, 20, FailureClass.INVALID, "x" * 2000, metadata=f'{{"a": "{"é" * 500}"}}')
    assert [len(items) for _, items in await pages(client, "/dead-letters?limit=15")] == [15, 5]
    for _ in range(3):
        await delivered(engine, "succeeded")
    assert [len(items) for _, items in await pages(client, "/webhook-deliveries?limit=2")] == [2, 1]


async def test_payloads_that_replays_have_replaced(client: Client, engine: AsyncEngine) -> None:
    """Each is on the page of its attempt, and the page ends where they fill it."""
    id = await ended_as(engine, "failed", payload=of_size(LARGE))
    for number in range(14):
        await replay(engine, await read(engine, id), EditedPayload(of_size(LARGE + number), "me"))
        await run_again(engine)
    found, following = [], f"/jobs/{id}/attempts?limit=200"
    while following:
        answer = await client.get(following)
        found.append((len(answer.content), answer.json()))
        following = answer.links.get("next", {}).get("url", "")
    assert [[one["attempt"] for one in page["items"]] for _, page in found] == [[*range(1, 11)], [*range(11, 16)]]
    edits = [[one["after_attempt"] for one in page["edits"]] for _, page in found]
    assert edits == [[*range(1, 11)], [*range(11, 15)]]
    assert all(size <= PAGE_BYTES + 10_000 for size, _ in found), [size for size, _ in found]


async def test_a_replaced_payload_is_on_one_page_also_if_the_attempts_fill_it(
    client: Client, engine: AsyncEngine
) -> None:
    id = await ended_as(engine, "failed", payload="{}")
    for number in range(12):
        await replay(engine, await read(engine, id), EditedPayload(f'{{"n": {number}}}', "me"))
        await run_again(engine)
    await do(engine, "UPDATE attempts SET traceback = repeat('x', 300000)")
    edits, following = [], f"/jobs/{id}/attempts?limit=200"
    while following:
        answer = await client.get(following)
        edits += [one["after_attempt"] for one in answer.json().get("edits", ())]
        following = answer.links.get("next", {}).get("url", "")
    assert edits == [*range(1, 13)]


@pytest.mark.parametrize("size", [0, 1, PAGE_BYTES // 50, PAGE_BYTES // 3, PAGE_BYTES // 2, PAGE_BYTES, 2 * PAGE_BYTES])
@pytest.mark.parametrize("limit", [1, 2, 3, 50, 200])
async def test_what_is_read_is_bounded_too(size: int, limit: int) -> None:
    """Whatever the rows weigh: those of a page, one more, and few that are read in vain."""
    rows = [UUID(int=number) for number in range(300)]
    calls = []

    async def read(after: UUID | None, count: int) -> Sequence[UUID]:
        begin = 0 if after is None else after.int + 1
        calls.append(count)
        return rows[begin : begin + count]

    found = await in_chunks(read, None, limit, lambda row: row, lambda _: size)
    fit = max(1, min(limit, PAGE_BYTES // max(size, 1)))
    assert found == rows[: len(found)]
    assert len(found) > fit or len(found) == limit + 1
    assert len(found) <= limit + 1
    assert len(found) * size <= 2 * PAGE_BYTES + 2 * size
    assert len(calls) <= 6
