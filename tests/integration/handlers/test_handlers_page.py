"""docs/handlers.md: its handlers run as they stand there, in a worker that its command starts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.services import keys
from tests.support.clients.client import Client
from tests.support.ledger.sql import do, rows
from tests.support.pages import blocks_to_run
from tests.support.service.live_api import api
from tests.support.service.processes import Service
from tests.support.service.running_service import types_known
from tests.support.service.shell import staying, typed

HANDLERS, COMMANDS, SECRETS = blocks_to_run("docs/handlers.md")
START, SUBMIT = COMMANDS.commands()


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / HANDLERS.file).parent.mkdir()
    (tmp_path / HANDLERS.file).write_text(HANDLERS.text)
    service = staying(START, {"ACCEPTED_DATABASE_URL": database_url}, tmp_path)
    yield service.start()
    service.remove()


async def test_the_example(engine: AsyncEngine, database_url: str, worker: Service, tmp_path: Path) -> None:
    await do(engine, "CREATE TABLE public.bookings (number int)")
    async with api(database_url) as live:
        _, key = await keys.create(engine, "acme", "shop", ["jobs:read", "jobs:write"])
        client = Client(live.url, key)
        await types_known(client)
        submitted = await typed(SUBMIT, {"ACCEPTED_URL": live.url, "ACCEPTED_API_KEY": key}, tmp_path)
        paid = await client.finished(submitted.out.split()[0])
        refused = await client.finish("order.pay", {"number": 8, "cents": 0})
        sent = await client.finish("receipt.send", {"order": 7, "receipt": "R"})
    assert (paid["status"], paid["result"]) == ("succeeded", {"receipt": f"receipt for 1999 under {paid['id']}"})
    assert (refused["status"], refused["attempt"], sent["status"]) == ("failed", 1, "succeeded")
    assert [row["number"] for row in await rows(engine, "SELECT number FROM public.bookings")] == [7]
    (child,) = await rows(engine, "SELECT queue, status, payload FROM jobs WHERE parent_id = :id", id=paid["id"])
    assert (child["queue"], child["status"], child["payload"]["order"]) == ("mails", "scheduled", 7)
    assert len(re.findall("^R$", worker.log(), re.MULTILINE)) == 4


def test_secrets_are_marked() -> None:
    module: dict[str, Any] = {"__name__": "secrets"}
    exec(compile(SECRETS.text, str(SECRETS), "exec"), module)
    properties = module["Login"].model_json_schema()["properties"]
    assert [name for name, each in properties.items() if each.get("writeOnly")] == ["password", "token"]
    assert properties["password"]["format"] == "password"
