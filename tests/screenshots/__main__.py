"""`make screenshots`: pictures of the pages of the dashboard, in docs/images."""

import asyncio
import sys
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.async_api import Browser

from accepted.domain.monitoring.problems import Kind
from tests.screenshots.stage import Stage, stage
from tests.support.clients.browser import chromium
from tests.support.waiting import until

HERE = Path("docs/images")

WIDTH = 1280

COLOURS = 128
"""Of a picture: enough for pages, and a third of the bytes."""


def pages(stage: Stage) -> dict[str, str]:
    """The path of each page by the name of its picture."""
    return {
        "overview": "/",
        "jobs": "/ui/jobs",
        "job": f"/ui/jobs/{stage.job_id}",
        "queues": "/ui/queues",
        "dead-letters": "/ui/dead-letters",
        "schedules": "/ui/schedules",
        "workflow": f"/ui/batches/{stage.workflow_id}",
        "webhooks": "/ui/webhooks",
        "submit": "/ui/submit?type=http.request",
        "workers": "/ui/workers",
    }


async def take(browser: Browser, stage: Stage, to: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    """A picture of each page in this width and colour scheme."""
    context = await browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page = await context.new_page()

    async def calm() -> bool:
        found = (await (await page.request.get(stage.url + "/status")).json())["problems"]
        return all(one["kind"] != Kind.LEDGER for one in found)

    for name, path in pages(stage).items():
        await until(calm, 60, "a ledger that answers in time: this machine has others to serve", interval=1)
        await page.goto(stage.url + path)
        taken = Image.open(BytesIO(await page.screenshot())).convert("RGB")
        taken.quantize(COLOURS).save(to / f"{name}{'' if scheme == 'light' else '-dark'}.png", optimize=True)
    await context.close()


async def main() -> None:
    async with stage() as running, chromium() as browser:
        await take(browser, running, HERE, WIDTH, "light")
        await take(browser, running, HERE, WIDTH, "dark")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    sys.exit(asyncio.run(main()))
