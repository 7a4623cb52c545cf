"""Runs the example of docs/handlers.md as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.ledger.sql import do, rows
from tests.support.service.worker_with_handlers import worker_with_handlers

PAGE = Path(__file__).resolve().parents[3] / "docs" / "handlers.md"


@pytest.fixture
def shop_handlers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    module = ModuleType("shop_handlers")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    return module


async def test_the_example(
    engine: AsyncEngine, database_url: str, shop_handlers: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    await do(engine, "CREATE TABLE public.bookings (number int)")
    async with worker_with_handlers(engine, database_url, shop_handlers.pay, shop_handlers.send) as shop:
        paid = await shop.finish("order.pay", {"number": 7, "cents": 1999})
        refused = await shop.finish("order.pay", {"number": 8, "cents": 0})
        sent = await shop.finish("receipt.send", {"order": 7, "receipt": "R"})
    assert (paid.status, paid.result) == ("succeeded", f'{{"receipt":"receipt for 1999 under {paid.id}"}}')
    assert (refused.status, refused.attempt, sent.status) == ("failed", 1, "succeeded")
    assert [row["number"] for row in await rows(engine, "SELECT number FROM public.bookings")] == [7]
    (child,) = await rows(engine, "SELECT queue, status, payload FROM jobs WHERE parent_id = :id", id=paid.id)
    assert (child["queue"], child["status"], child["payload"]["order"]) == ("mails", "scheduled", 7)
    assert capsys.readouterr().out.count("R\n") == 4
