"""Acts on schedules, batches and webhooks, as people click them, without scripts and with them."""

import re
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.browser import Person
from tests.support.clients.client import Client
from tests.support.ledger.sql import do
from tests.support.servers.receiver import Receiver
from tests.support.waiting import until


async def test_acts_on_a_schedule(somebody: Person, ann: Client) -> None:
    name = f"schedule-{uuid4().hex[:8]}"
    path = f"/schedules/{name}"
    await somebody.look("/ui/schedules")
    page = await somebody.press("New schedule")
    await somebody.type(Name=name, Cron="61 * * * *", Time_zone="Europe/Berlin", Job='{"type": "noop"}')
    assert "cron: " in await somebody.ask("Save", 422)
    assert await page.get_by_label("Name", exact=True).input_value() == name
    await somebody.type(Cron="30 2 * * *")
    assert "the clock in Europe/Berlin skips" in await somebody.ask("Preview")
    assert (await ann.get(path)).status_code == 404
    await somebody.press("Save")
    assert await somebody.said() == f"Schedule {name} is written."
    await somebody.press("Trigger now")
    assert re.fullmatch("Job .* is submitted[.]", await somebody.said())
    assert "triggered" in [run["outcome"] for run in (await ann.get(f"{path}/runs")).json()["items"]]
    for act, enabled in (("Disable", False), ("Enable", True)):
        await somebody.press(f"{act} {name}")
        assert await somebody.said() == f"Schedule {name} is {act.lower()}d."
        assert (await ann.get(path)).json()["enabled"] is enabled
    assert f"Schedule {name} fires no more." in await somebody.ask("Delete…")
    await somebody.press("Delete 1 schedule")
    assert await somebody.said() == f"Schedule {name} is deleted."
    assert (await ann.get(path)).status_code == 404


async def test_acts_on_a_batch(somebody: Person, ann: Client) -> None:
    jobs = [{"type": "noop", "delay": 3600}] * 2
    batch = (await ann.http.post("/batches", json={"jobs": jobs})).json()["id"]

    async def counted(**wanted: int) -> None:
        async def reached() -> bool:
            return bool((await ann.get(f"/batches/{batch}")).json()["counts"] == wanted)

        await until(reached, 30, f"{wanted} jobs of the batch", interval=0.1)

    await somebody.look("/ui/batches")
    await somebody.press(batch)
    assert "2 jobs of 2 not finished yet." in await somebody.ask("Cancel…")
    await counted(scheduled=2)
    await somebody.press("Cancel 2 jobs")
    assert await somebody.said() == "The batch is being cancelled."
    await counted(cancelled=2)
    await somebody.look(f"/ui/batches/{batch}")
    assert "2 jobs ended without success" in await somebody.ask("Retry what has failed…")
    await somebody.press("Retry 2 jobs")
    assert await somebody.said() == "2 jobs will run again."
    await counted(succeeded=2)


async def test_acts_on_webhooks(somebody: Person, ann: Client, target: Receiver, ledger: AsyncEngine) -> None:
    path, again = "/ui/webhooks?status=succeeded", re.compile(f"^Redeliver .*:{target.port}.hook$")
    await ann.finish(callback_url=f"{target.url}/hook")
    await target.wait_for(1, 30)

    async def delivered() -> bool:
        page = await somebody.look(path)
        return await page.get_by_role("button", name=again).count() > 0

    await until(delivered, 30, "a delivery that can be sent again", interval=0.5)
    await somebody.press(again)
    assert await somebody.said() == "The webhook is sent again."
    await target.wait_for(2, 30)

    host = f"{uuid4().hex[:8]}.example:443"
    await do(
        ledger,
        "INSERT INTO targets (tenant, host, failures, reason, deferred_until) "
        "VALUES ('ann', :host, 7, 'transient', now() + interval '1 hour')",
        host=host,
    )
    await somebody.look("/ui/webhooks")
    await somebody.check_usable()
    await somebody.press(f"Release {host}")
    assert await somebody.said() == f"{host} is called as usual again. Jobs that waited for it and are released: 0."
    assert (await ann.get(f"/targets/{host}")).status_code == 404
