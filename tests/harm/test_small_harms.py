"""Small harms: to the terminal of who reads, by a key that was revoked."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.faults.table import Measured
from tests.support.clients.client import Client
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import Running, accepted, make_keys, serving, types_known
from tests.support.waiting import until

KEY = ("a", "jobs:read,jobs:write,jobs:work,admin")

NASTY = "\x1b]0;title\x07 \x9b2J \x7f\r\nforged \u202e"

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture(scope="module")
async def guarded(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    name = f"guarded_{uuid4().hex}"
    url = database_server.create_database(name, template=database_template)
    async with serving(url, {"ACCEPTED_AUTH": "required"}) as running:
        yield running
    database_server.drop_database(name)


@pytest.mark.fault("F85", moment="an error message holds escape sequences, and an operator lists dead letters")
async def test_a_terminal_shows_what_others_sent_and_does_not_obey_it(guarded: Running) -> None:
    (key,) = await make_keys(guarded.env, KEY)
    client, env = guarded.client(key), {**guarded.env, "ACCEPTED_API_KEY": key}
    assert (await client.http.put("/job-types/nasty", json={"payload_schema": {}})).status_code in (200, 201)
    job = await client.submit("nasty", queue="nasty")
    lease = await client.http.post("/queues/nasty/lease", json={"wait": 20})
    token = lease.json()["items"][0]["lease"]
    progress = await client.http.post(f"/leases/{token}/progress", json={"percent": 5, "message": NASTY})
    assert progress.status_code == 200
    failed = await client.http.post(f"/leases/{token}/fail", json={"class": "invalid", "message": NASTY})
    assert failed.status_code == 200
    letters = ("dead-letters", "list")
    listed, grouped, as_json, watched = await asyncio.gather(
        accepted(*letters, env=env),
        accepted(*letters, "--group", env=env),
        accepted(*letters, "--json", env=env),
        accepted("jobs", "watch", job["id"], env=env),
    )
    for done in (listed, grouped, as_json, watched):
        assert not CONTROLS.search(done.out + done.err), done
    assert r"\x1b]0;title\x07 \x9b2J \x7f\r\nforged \u202e" in listed.out
    assert len(listed.out.splitlines()) == len(grouped.out.splitlines()) == 1
    assert json.loads(as_json.out)["items"][0]["message"] == NASTY
    assert r"5 % \x1b]0" in watched.err


@pytest.mark.fault("F92", moment="a stream, long polls, a lease request and an upload are open under it")
async def test_what_waits_under_a_key_ends_with_it(guarded: Running, measured: Measured) -> None:
    key_id, revoked = await key_and_id(guarded)
    (kept,) = await make_keys(guarded.env, KEY)
    client, other = guarded.client(revoked), guarded.client(kept)
    await types_known(other)
    watched = (await other.submit("noop", delay=600))["id"]
    waits = {
        "upload": asyncio.create_task(half_an_upload(guarded.url, revoked)),
        "stream": asyncio.create_task(events_of(client, watched)),
        "poll": asyncio.create_task(status_of(client.get(f"/jobs/{watched}?wait=60"))),
        "lease": asyncio.create_task(status_of(client.http.post("/queues/nobody/lease", json={"wait": 60}))),
        "submission": asyncio.create_task(
            status_of(client.post({"type": "noop", "tags": ["waits"], "delay": 600}, prefer="wait=60"))
        ),
    }
    not_revoked = asyncio.create_task(status_of(other.get(f"/jobs/{watched}?wait=60")))

    async def submitted() -> bool:
        return bool((await other.get("/jobs?tag=waits")).json()["items"])

    await until(submitted, 20, "the submission that waits for its job")
    assert (await accepted("keys", "revoke", key_id, env=guarded.env)).code == 0
    begun = time.monotonic()
    await asyncio.wait(waits.values(), timeout=10)
    measured("closed", time.monotonic() - begun, 5)
    ended = {name: task.result() for name, task in waits.items()}
    assert ended == {"upload": 401, "stream": ["status", "problem"], "poll": 401, "lease": 401, "submission": 202}
    assert not not_revoked.done(), "another key of the tenant goes on"
    not_revoked.cancel()


async def key_and_id(running: Running) -> tuple[str, str]:
    tenant, scopes = KEY
    made = await accepted("keys", "create", "--tenant", tenant, "--name", "n", "--scopes", scopes, env=running.env)
    return made.err.split()[-1], made.out.strip()


async def status_of(answer: Awaitable[httpx.Response]) -> int:
    return (await answer).status_code


async def events_of(client: Client, job_id: str) -> list[str]:
    return [event["event"] for event in await client.all_events(job_id)]


async def half_an_upload(url: str, key: str) -> int:
    """The status that answers a batch of which no more than one line is sent."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST /batches HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
    body = "Content-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n" + '{"type":"noop"}\n'
    writer.write((head + body).encode())
    status = (await reader.readline()).split()[1]
    writer.close()
    return int(status)
