"""One browser and one service for all tests of the pages, with people of two tenants."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from playwright.async_api import Browser
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage.db.engine import create_engine
from tests.support.clients.browser import HOSTILE, Person, chromium, nowhere, person
from tests.support.clients.client import Client
from tests.support.service.running_service import Running, make_keys, types_known

ALL = "jobs:read,jobs:write,jobs:work,admin"


@pytest.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
async def people(trio: Running) -> Mapping[str, str]:
    """Keys by name: `ann` and `reader` of a tenant with jobs, `bob` of one without, and `operator`."""
    wanted = {
        "ann": ("ann", ALL),
        "reader": ("ann", "jobs:read"),
        "bob": ("bob", ALL),
        "operator": ("ops", "jobs:read,operator"),
    }
    return dict(zip(wanted, await make_keys(trio.env, *wanted.values()), strict=True))


@pytest.fixture(scope="package")
async def ann(trio: Running, people: Mapping[str, str]) -> Client:
    """The tenant with jobs, at the API."""
    client = trio.client(people["ann"])
    await types_known(client)
    return client


@pytest.fixture(scope="package")
async def jobs(ann: Client) -> Mapping[str, Any]:
    """One job of each kind that pages show in their own way."""
    away = nowhere()
    made = {
        "failed": await ann.submit(
            "http.request", {"url": away, "method": "POST", "json": {"note": HOSTILE}},
            retry={"max_attempts": 1}, queue="calls",
            tags=[HOSTILE[:60]], metadata={"note": HOSTILE}, callback_url=nowhere(),
        ),
        "scheduled": await ann.submit(delay=3600, queue="later", metadata={"customer": "x" * 200}),
        "large": await ann.submit("noop", {"text": "w" * 250_000}),
        "succeeded": await ann.submit("noop", {"text": HOSTILE, "n": [1, 2.5, 10**17], "deep": {"a": [[[]]]}}),
    }  # fmt: skip
    for name in ("failed", "large", "succeeded"):
        made[name] = await ann.finished(made[name]["id"])
    return made


@pytest.fixture(scope="package")
async def wholes(ann: Client) -> list[str]:
    """The pages of a schedule and of a workflow."""
    daily = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "job": {"type": "noop", "tags": [HOSTILE[:60]]}}
    assert (await ann.http.put("/schedules/nightly", json=daily)).status_code == 201
    steps = [{"ref": HOSTILE[:50], "type": "noop"}, {"ref": "b" * 50, "type": "noop", "depends_on": [HOSTILE[:50]]}]
    made = await ann.http.post("/workflows", json={"jobs": steps})
    return ["/ui/schedules/nightly", f"/ui/batches/{made.json()['id']}"]


@pytest.fixture(params=[False, True], ids=["without scripts", "with scripts"])
async def somebody(
    request: pytest.FixtureRequest, browser: Browser, trio: Running, people: Mapping[str, str]
) -> AsyncIterator[Person]:
    """`ann` at the pages."""
    async with person(browser, trio.url, people["ann"], java_script_enabled=request.param) as one:
        yield one


@pytest.fixture
async def plain(browser: Browser, trio: Running, people: Mapping[str, str]) -> AsyncIterator[Person]:
    """The same without scripts alone."""
    async with person(browser, trio.url, people["ann"], java_script_enabled=False) as one:
        yield one


@pytest.fixture
async def ledger(trio: Running) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(trio.env["ACCEPTED_DATABASE_URL"])
    yield engine
    await engine.dispose()
