"""Small harms: to the terminal of who reads, by a key that was revoked."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import Running, accepted, make_keys, serving

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
