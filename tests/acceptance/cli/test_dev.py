"""What `accepted dev` says once it is ready, `--reload`, and a first and a second Ctrl-C during a reload."""

import os
import re
import shlex
import signal
from pathlib import Path

from tests.support.clients.client import Client
from tests.support.service.processes import Service, StartService, logged
from tests.support.service.running_service import BOOT_WITHIN, run_to_end
from tests.support.waiting import until

HANDLERS = """
import time
from accepted import Context, job

@job("version", queue="v")
def version(payload: dict, ctx: Context) -> str:
    while payload.get("until_stopped") and not ctx.cancelled:
        time.sleep(0.02)
    time.sleep(payload.get("seconds", 0))
    return "VERSION"
"""


def save(directory: Path, version: str) -> None:
    (directory / "shop_jobs.py").write_text(HANDLERS.replace("VERSION", version))


def ctrl_c(dev: Service) -> None:
    """As a terminal sends it: to every process of the group."""
    os.killpg(dev.pid, signal.SIGINT)


async def test_a_greeting_a_reload_and_a_second_interrupt(
    database_url: str, start_service: StartService, tmp_path: Path
) -> None:
    save(tmp_path, "one")
    env = {
        "ACCEPTED_DATABASE_URL": database_url, "ACCEPTED_HANDLERS": "workers.handlers,shop_jobs",
        "ACCEPTED_SHUTDOWN_GRACE": "60",
    }  # fmt: skip
    dev = start_service("dev", "--port", "0", "--reload", env=env, directory=tmp_path)
    await dev.wait_ready(logged("is ready"), BOOT_WITHIN)
    said = dev.log()
    (url,) = re.findall(r"API +(http://127\.0\.0\.1:\d+)\n", said)
    for line in (f"Dashboard  {url}/\n", f"Reference  {url}/docs\n", "noop, sleep, version\n"):
        assert line in said
    (curl,) = re.findall(r"^  (curl .*)$", said, re.MULTILINE)
    answer = await run_to_end(["curl", "-si", *shlex.split(curl)[1:]], {})
    assert "202 Accepted" in answer.out

    client = Client(url)
    running = await client.submit("version", {"seconds": 2})
    await client.until_status(running["id"], "running")
    save(tmp_path, "two")
    assert (await client.finished(running["id"]))["result"] == "one", "it ends before the worker does"

    async def reloaded() -> bool:
        return bool((await client.finish("version"))["result"] == "two")

    await until(reloaded, BOOT_WITHIN, "the new code")
    (tmp_path / "shop_jobs.py").write_text("1 +")
    await dev.wait_ready(logged("cannot import 'shop_jobs'"), BOOT_WITHIN)
    save(tmp_path, "three")
    assert (await client.finish("version"))["result"] == "three"

    endless = await client.submit("sleep", {"seconds": 600})
    await client.until_status(endless["id"], "running")
    waits = f"waits_for=['{endless['id']}']"
    save(tmp_path, "four")
    await dev.wait_ready(lambda it: it.log().count(waits) == 1, BOOT_WITHIN)
    ctrl_c(dev)
    await dev.wait_ready(lambda it: it.log().count(waits) == 2, BOOT_WITHIN)
    assert "jobs_handed_back" not in dev.log(), "the reload was no Ctrl-C"
    ctrl_c(dev)
    assert await dev.wait_exit(40) == 0, "the grace is 60 s"
    assert "jobs_handed_back" in dev.log()
    assert "Traceback" not in dev.log()
