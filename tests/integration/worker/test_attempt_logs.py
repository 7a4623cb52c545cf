"""What handlers log is kept with the job, attempt by attempt, bounded, and never of another job."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, TransientError, job
from accepted.domain.ids import BEFORE_ALL
from accepted.storage import pruning
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_problem
from tests.support.handlers import talking
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp
from tests.support.service.worker_with_handlers import worker_with_handlers
from tests.support.waiting import until

EVERY_KIND = (talking.talk, talking.talk_in_a_thread, talking.talk_in_a_process)


async def lines(client: Client, job_id: UUID, query: str = "") -> list[Any]:
    answer = await client.get(f"/jobs/{job_id}/logs{query}")
    return list(answer.json()["items"])


async def test_every_kind_of_handler_keeps_its_own_lines(
    engine: AsyncEngine, client: Client, database_url: str
) -> None:
    async with worker_with_handlers(engine, database_url, *EVERY_KIND) as shop:
        kinds = ("talk.async", "talk.async", "talk.thread", "talk.thread", "talk.process")
        together = range(4)  # one for each slot
        ids = [await shop.accept(kind, {"number": n, "together": [*together]}) for n, kind in enumerate(kinds)]
        for job_id in ids:
            assert (await shop.finished(job_id)).status == "succeeded"
    for number, (kind, job_id) in enumerate(zip(kinds, ids, strict=True)):
        begins, cart, caught, too, *rest = await lines(client, job_id)
        assert begins["message"] == "begins"
        assert begins["fields"] | {"odd": None, "big": None} == {
            "number": number, "nul": "a\0b", "surrogate": "\\ud800", "odd": None, "big": None,
        }  # fmt: skip
        assert len(begins["fields"]["big"]) == 1024
        assert {"attempt": 1, "level": "info", "message": f"cart {number}"}.items() <= cart.items()
        assert cart["fields"] == {"logger": "shop.cart", "colour": "red"}
        assert datetime.now(UTC) - datetime.fromisoformat(cart["at"]) < timedelta(minutes=2)
        assert (caught["level"], caught["fields"]["bound"], too["level"]) == ("error", number, "warning")
        for line in (caught, too):
            assert f"ValueError: invalid literal for int() with base 10: 'x{number}'" in line["fields"]["traceback"]
        others = {
            "talk.async": [f"turn {number}"] * 20 + [f"task {number}", "ends"],
            "talk.thread": [f"still {number}"],
            "talk.process": [f"thread {number}"],
        }
        assert [line["message"] for line in rest] == others.get(kind, [])


async def test_a_flood_keeps_its_end(engine: AsyncEngine, client: Client, database_url: str) -> None:
    floods = (talking.flood, talking.flood_in_a_process)
    async with worker_with_handlers(engine, database_url, *floods) as shop:
        for kind in ("talk.flood", "talk.flood.process"):
            many = await shop.finish(kind, {"lines": 30_000, "padding": 0, "pause_at": 701})
            dropped, *kept = await lines(client, many.id)
            assert (dropped["message"], dropped["fields"]) == ("29000 older lines were dropped", {"dropped": 29_000})
            assert [line["message"] for line in kept] == [f"line {one}" for one in range(29_001, 30_001)]
            twice = await shop.finish(kind, {"lines": 1_400, "padding": 0, "pause_at": 701})
            assert [line["message"] for line in (await lines(client, twice.id))[:2]] == [
                "400 older lines were dropped",
                "line 401",
            ], "a piece of 700 lines was written, and 400 of them were outdated later"
            long = await shop.finish(kind, {"lines": 1_200, "padding": 400})
            assert len(kept) > len(await lines(client, long.id)) > 100
    outdated = """
        SELECT l.last FROM attempt_logs l
        WHERE l.last < (SELECT max(n.first) FROM attempt_logs n WHERE n.job_id = l.job_id AND n.attempt = l.attempt)
    """
    assert await rows(engine, outdated) == [], "a piece is deleted when none of its lines counts any more"


async def test_lines_are_seen_while_it_runs_and_stay_those_of_their_attempt(
    engine: AsyncEngine, app: HttpApp, client: Client, database_url: str
) -> None:
    go_on = asyncio.Event()

    @job("slow", queue="q")
    async def slow(payload: dict[str, Any], ctx: Context) -> None:
        ctx.log.info(f"attempt {ctx.job.attempt}")
        if ctx.job.attempt == 1:
            await go_on.wait()
            ctx.log.info("fenced")
            return
        ctx.log.info("last words")
        raise TransientError("again")

    async with worker_with_handlers(engine, database_url, slow) as shop:
        job_id = await shop.accept("slow")
        (line,) = await until(lambda: lines(client, job_id), 10, "a line of a running attempt")
        assert line["message"] == "attempt 1"
        await shop.rescue(job_id)
        await shop.finished(job_id)
        go_on.set()
        await until(lambda: _ended(shop.worker), 10, "the end of the fenced attempt")
    found = [(line["attempt"], line["message"]) for line in await lines(client, job_id)]
    assert found == [(1, "attempt 1"), (2, "attempt 2"), (2, "last words"), (3, "attempt 3"), (3, "last words")]

    first = (await client.get(f"/jobs/{job_id}/logs?limit=2")).json()
    second = (await client.get(f"/jobs/{job_id}/logs?limit=2&cursor={first['next']}")).json()
    third = (await client.get(f"/jobs/{job_id}/logs?limit=2&cursor={second['next']}")).json()
    paged = [line["message"] for page in (first, second, third) for line in page["items"]]
    assert (paged, third["next"]) == ([message for _, message in found], None)
    later = (await client.get(f"/jobs/{job_id}/logs?limit=2&cursor={third['resume']}")).json()
    assert (later["items"], later["resume"]) == ([], third["resume"])
    assert [one["message"] for one in await lines(client, job_id, "?attempt=2")] == ["attempt 2", "last words"]
    check_problem(await client.get(f"/jobs/{job_id}/logs?attempt=2&cursor={first['next']}"), 422, "/cursor")
    check_problem(await (await app.client("another")).get(f"/jobs/{job_id}/logs"), 404)


def _ended(worker: Any) -> bool:
    return not worker._lanes[0].running


async def test_a_log_that_cannot_be_written_fails_no_job_and_silence_writes_nothing(
    engine: AsyncEngine, client: Client, database_url: str
) -> None:
    @job("silent", queue="q")
    async def silent(payload: dict[str, Any], ctx: Context) -> None: ...

    async with worker_with_handlers(engine, database_url, silent, talking.talk) as shop:
        quiet = await shop.finish("silent")
        assert await lines(client, quiet.id) == []
        assert await rows(engine, "SELECT 1 FROM attempt_logs") == []
        await do(engine, "ALTER TABLE attempt_logs ADD CONSTRAINT none CHECK (false) NOT VALID")
        assert (await shop.finish("talk.async", {"number": 1})).status == "succeeded"
        await do(engine, "ALTER TABLE attempt_logs DROP CONSTRAINT none")
        again = await shop.finish("talk.async", {"number": 2})
        assert (await lines(client, again.id))[0]["message"] == "begins"
    async with transaction(engine) as conn:
        await pruning.prune_jobs(conn, 0, 0, datetime.now(UTC) + timedelta(seconds=5), BEFORE_ALL, 100)
        await conn.commit()
    assert await rows(engine, "SELECT 1 FROM attempt_logs") == [], "the log goes with its job"
