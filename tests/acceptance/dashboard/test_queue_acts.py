"""Acts on queues and dead letters, as people click them, without scripts and with them."""

import asyncio
import json
import re
from datetime import datetime
from pathlib import Path

from tests.support.clients.browser import Person
from tests.support.clients.client import Client
from tests.support.clients.failed_jobs import failed


async def test_acts_on_a_queue(somebody: Person, ann: Client, queue: str) -> None:
    path = f"/ui/queues/{queue}"
    await ann.finish(queue=queue)
    await somebody.look("/ui/queues")
    await somebody.press(f"Pause {queue}")
    assert await somebody.said() == f"Queue {queue} is paused. No new job of it starts."
    waiting = (await ann.submit(queue=queue))["id"]
    page = await somebody.look(path)
    assert f"Queue {queue} is paused." in await page.get_by_role("region", name="Who waits, and why").inner_text()
    assert "Cancel 1 job?" in await somebody.ask("Cancel all that wait…")
    assert (await ann.job(waiting))["status"] == "queued"
    await somebody.press("Cancel")
    assert (await ann.job(waiting))["status"] == "cancelled"
    await somebody.look(path)
    await somebody.press(f"Resume {queue}")
    assert await somebody.said() == f"Queue {queue} is resumed. Its jobs start again."
    assert (await ann.finish(queue=queue))["status"] == "succeeded"


async def test_limits_of_a_queue(plain: Person, ann: Client, queue: str) -> None:
    await ann.finish(queue=queue)
    page = await plain.look(f"/ui/queues/{queue}")
    await plain.type(Running_at_once="many", Jobs_that_start="5", Waiting_at_most="9")
    said = await plain.ask("Set limits", 422)
    assert "max_running: " in said
    assert "rate_limit/per: " in said
    assert await page.get_by_label("Running at once", exact=True).input_value() == "many"
    await plain.type(Running_at_once="7", Jobs_that_start="100", in_so_many="0.5", Waiting_at_most="")
    await plain.press("Set limits")
    assert await plain.said() == f"The limits of queue {queue} are set."
    found = (await ann.get(f"/queues/{queue}")).json()
    assert (found["max_running"], found["rate_limit"], found["max_depth"]) == (7, {"jobs": 100, "per": 0.5}, None)
    page = await plain.look("/ui/queues")
    assert "7 running, 100 per 500 ms" in await page.get_by_role("row", name=queue).inner_text()


async def test_acts_on_dead_letters(somebody: Person, ann: Client, queue: str) -> None:
    letters = await asyncio.gather(*(failed(ann, queue=queue) for _ in range(5)))
    path, made = f"/ui/dead-letters?queue={queue}", {letter["id"] for letter in letters}
    page = await somebody.look(path)
    async with page.expect_download() as exported:
        await page.get_by_role("link", name="Export NDJSON").click()
    lines = await asyncio.to_thread(Path(await (await exported.value).path()).read_text)
    assert {json.loads(line)["job_id"] for line in lines.splitlines()} == made
    assert f"5 dead letters of queue {queue}. One starts every 2 min." in await somebody.ask("Replay…")
    await somebody.type(Spread_over="soon")
    assert "spread_over: " in await somebody.ask("Replay 5 dead letters", 422)
    assert {(await ann.job(job_id))["status"] for job_id in made} == {"failed"}

    page = await somebody.look(f"{path}&view=each")
    await page.get_by_role("checkbox", name=re.compile("^Select sleep")).first.check()
    assert "1 dead letter that you have selected" in await somebody.ask("Discard…", which=1)
    await somebody.press("Discard 1 dead letter")
    assert await somebody.said() == "1 dead letter discarded."
    await somebody.look(path)
    await somebody.press("Replay…")
    await somebody.type(Spread_over="20")
    await somebody.press("Replay 4 dead letters")
    assert await somebody.said() == "4 dead letters replayed over 20 min."
    jobs = [await ann.job(job_id) for job_id in made]
    starts = sorted(datetime.fromisoformat(job["run_at"]) for job in jobs if job["status"] != "failed")
    assert (len(starts), (starts[-1] - starts[0]).total_seconds() > 600) == (4, True)
