"""examples/shop: the commands of its page, on the service and the application that its one command starts."""

import sys
from importlib import import_module

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.ledger.sql import rows
from tests.support.pages import blocks_to_run
from tests.support.servers.ports import free_port
from tests.support.service.processes import ROOT, answers
from tests.support.service.running_service import BOOT_WITHIN
from tests.support.service.shell import staying, typed
from tests.support.waiting import until

EXAMPLES = ROOT / "examples"
START, *CURLS = [command for block in blocks_to_run("examples/shop/README.md") for command in block.commands()]


async def test_the_page_as_it_stands_there(database_url: str, engine: AsyncEngine) -> None:
    shop, accepted = free_port(), free_port()
    env = {"SHOP_DATABASE_URL": database_url, "SHOP_PORT": str(shop), "SHOP_ACCEPTED_PORT": str(accepted)}
    service = staying(START, env, EXAMPLES).start()
    try:
        await service.wait_ready(answers(f"http://127.0.0.1:{shop}/docs"), BOOT_WITHIN)
        await service.wait_ready(lambda service: "is ready" in service.log(1000), BOOT_WITHIN)
        order, look, dear = (one.replace(":8001", f":{shop}") for one in CURLS)
        made = await typed(order, {}, EXAMPLES)
        assert '"number":1' in made.out

        async def paid() -> bool:
            return '"status":"paid"' in (await typed(look, {}, EXAMPLES)).out

        await until(paid, 30, "the webhook")
        refused = await typed(dear, {}, EXAMPLES)
        assert refused.out == '{"detail":"too expensive"}'
        unsigned = await typed(f"curl -d '{{}}' http://127.0.0.1:{shop}/webhooks", {}, EXAMPLES)
        assert unsigned.out == '{"detail":"Bad Request"}'
        found = await rows(engine, "SELECT type, status FROM jobs WHERE type <> 'webhook.deliver' ORDER BY id")
        assert [tuple(each.values()) for each in found] == [("order.pay", "succeeded"), ("receipt.send", "succeeded")]
        assert await service.terminate(60) == 0
    finally:
        service.remove()


def test_its_own_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    try:
        tests = {name: one for name, one in vars(import_module("shop.test_shop")).items() if name.startswith("test_")}
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]
    assert len(tests) == 3
    for test in tests.values():
        test()
