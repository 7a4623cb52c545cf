"""A failed attempt is a warning with its class, its message and its place, whatever kind of code has failed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs
from structlog.typing import EventDict

from accepted import Context, InvalidJob, job
from accepted.storage.db.engine import create_engine
from tests.support.clients.lease_client import one_lease, register, say
from tests.support.handlers import process_handlers
from tests.support.ledger.sql import do
from tests.support.service.live_api import api
from tests.support.service.worker_with_handlers import WorkerWithHandlers, worker_with_handlers

SECRET = "hunter2secret"
ONCE = {"max_attempts": 1}


def look_up(payload: dict[str, Any]) -> object:
    return payload["missing"]


@job("fails.async", queue="q")
async def fails(payload: dict[str, Any], ctx: Context) -> object:
    return look_up(payload)


@job("fails.thread", queue="q")
def fails_in_a_thread(payload: dict[str, Any], ctx: Context) -> object:
    return look_up(payload)


@job("fails.step", queue="q")
async def fails_in_a_step(payload: dict[str, Any], ctx: Context) -> object:
    return await ctx.step("look up", lambda: look_up(payload))


@job("fails.secret", queue="q")
async def fails_with_a_secret(payload: dict[str, Any], ctx: Context) -> None:
    raise ValueError(f"postgresql://shop:{SECRET}@db/shop refused; password={SECRET}\nvalue: {SECRET}")


@job("fails.invalid", queue="q")
async def fails_as_invalid(payload: dict[str, Any], ctx: Context) -> None:
    raise InvalidJob("no such customer")


@job("fails.late", queue="q", timeout=0.2)
async def fails_late(payload: dict[str, Any], ctx: Context) -> None:
    await asyncio.sleep(60)


@job("child", queue="q")
async def child(payload: dict[str, Any], ctx: Context) -> None: ...


@job("fails.children", queue="q")
async def fails_with_children(payload: dict[str, Any], ctx: Context) -> None:
    for _ in range(2):
        await ctx.submit("child", {})


HANDLERS = (
    fails, fails_in_a_thread, fails_in_a_step, fails_with_a_secret, fails_as_invalid, fails_late, child,
    fails_with_children, process_handlers.deed,
)  # fmt: skip


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url)
    yield made
    await made.dispose()


async def test_it_names_class_message_and_place(engine: AsyncEngine, database_url: str) -> None:
    with capture_logs() as lines:
        async with worker_with_handlers(engine, database_url, *HANDLERS, max_fanout_jobs=2) as shop:
            looked_up = _line_of(look_up.__code__.co_firstlineno + 1)
            for type_ in ("fails.async", "fails.thread", "fails.step"):
                line = await _attempt(shop, lines, type_)
                assert (line["class"], line["message"], line["where"]) == (
                    "transient", "KeyError: 'missing'", looked_up,
                ), type_  # fmt: skip

            told = await _attempt(shop, lines, "fails.secret")
            assert SECRET not in str(told)
            assert told["message"].startswith("ValueError: postgresql://***@db/shop refused")

            invalid = await _attempt(shop, lines, "fails.invalid")
            assert (invalid["class"], invalid["message"]) == ("invalid", "no such customer")
            assert Path(invalid["where"].partition(":")[0]).name == Path(__file__).name

            late = await _attempt(shop, lines, "fails.late")
            assert (late["class"], late["message"]) == ("timeout", "ran longer than 0.2 s")

            in_process = await _attempt(shop, lines, "deed", {"do": "raise", "arg": "value"})
            assert in_process["message"].startswith("ValueError: bad ")
            assert "process_handlers.py:" in in_process["where"]

            crashed = await _attempt(shop, lines, "deed", {"do": "exit", "arg": 5})
            assert crashed["class"] == "crashed"
            assert "exit code 5" in crashed["message"]

            root = (await shop.finish("child", **ONCE)).id
            await do(engine, "UPDATE jobs SET descendants = 1 WHERE id = :id", id=root)
            await shop.finish("fails.children", parent_id=root, root_id=root, depth=1, **ONCE)
            (refused,) = [line for line in lines if line["event"] == "success_refused"]
            assert (refused["log_level"], refused["class"]) == ("warning", "invalid")
            assert refused["message"]

            assert [line["log_level"] for line in lines if line.get("type") == "child"] == ["info"]


async def test_a_failure_that_a_lease_reports_is_a_warning_too(database_url: str) -> None:
    with capture_logs() as lines:
        async with api(database_url) as one:
            client = await one.client()
            await register(client)
            await client.submit("node.echo")
            held = await one_lease(client)
            await say(client, held, "fail", **{"class": "invalid", "message": f"token: {SECRET}"})
    (line,) = [line for line in lines if line["event"] == "attempt"]
    assert (line["log_level"], line["class"], line["message"]) == ("warning", "invalid", "token: ***")


async def _attempt(
    shop: WorkerWithHandlers, lines: list[EventDict], type_: str, payload: dict[str, Any] | None = None
) -> EventDict:
    job_id = str((await shop.finish(type_, payload, **ONCE)).id)
    (line,) = [line for line in lines if line["event"] == "attempt" and line["job_id"] == job_id]
    assert line["log_level"] == "warning"
    return line


def _line_of(number: int) -> str:
    return f"{__file__}:{number}"
