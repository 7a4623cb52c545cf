"""The processes of the service under the roles of `deploy/roles.sql`: all that they do works, and nothing else."""

import os
import subprocess
from collections.abc import Iterator

import asyncpg
import pytest

from tests.support.servers.addresses import EXTERNAL_DATABASE
from tests.support.servers.postgres import BINARIES, DatabaseServer
from tests.support.servers.receiver import Receiver
from tests.support.service.processes import ROOT, run
from tests.support.service.running_service import make_keys, serving, types_known

NAME = "least_rights"
DENIED = [
    "CREATE TABLE accepted.mine (n int)",
    "CREATE TABLE public.mine (n int)",
    "CREATE TEMPORARY TABLE mine (n int)",
    "ALTER TABLE accepted.jobs ADD COLUMN mine int",
    "TRUNCATE accepted.jobs",
    "DROP TABLE accepted.jobs",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/hostname')",
    "CREATE ROLE mine",
    "SET ROLE accepted_owner",
]


@pytest.fixture
def server(database_server: DatabaseServer) -> Iterator[DatabaseServer]:
    """With a database that has the two roles, and nothing else."""
    if EXTERNAL_DATABASE:
        pytest.skip("the roles of that server are not ours to make")
    database_server.create_database(NAME)
    command = [str(BINARIES / "psql"), "-Xq", "--file", str(ROOT / "deploy" / "roles.sql"), database_server.url(NAME)]
    passwords = {"MIGRATE_PASSWORD": "it's m", "SERVICE_PASSWORD": "s"}
    done = subprocess.run(command, env=os.environ | passwords, capture_output=True, text=True, check=False)
    try:
        assert done.returncode == 0, done.stderr
        yield database_server
    finally:
        database_server.drop_database(NAME)
        database_server.execute("DROP ROLE IF EXISTS accepted_owner, accepted, accepted_submitter, shop, stranger")


async def test_the_service_works_with_the_rights_that_it_has(server: DatabaseServer) -> None:
    url = server.url(NAME).replace("postgres@", "accepted@")
    run("migrate", env={"ACCEPTED_DATABASE_URL": server.url(NAME).replace("postgres@", "accepted_owner@")})
    async with serving(url, {"ACCEPTED_AUTH": "required"}) as running, Receiver() as receiver:
        (key,) = await make_keys(running.env, ("acme", "jobs:read,jobs:write,jobs:work,admin"))
        client = running.client(key)
        await types_known(client)
        told = await client.finish("noop", callback_url=receiver.url)
        assert told["status"] == "succeeded"
        nodes = [{"type": "noop", "ref": "a"}, {"type": "noop", "ref": "b", "depends_on": ["a"]}]
        answer = await client.http.post("/workflows", json={"jobs": nodes})
        assert answer.status_code == 202, answer.text
        call = {"url": receiver.url, "expect_status": [418]}
        failed = await client.finish("http.request", call, retry={"max_attempts": 1})
        assert failed["status"] == "failed"
        for method, path, body in (
            ("POST", "/dead-letters/replay", {"ids": [failed["id"]]}),
            ("PUT", "/schedules/hourly", {"cron": "0 * * * *", "job": {"type": "noop"}}),
            ("POST", "/schedules/hourly/trigger", None),
            ("DELETE", "/schedules/hourly", None),
            ("PATCH", "/queues/default", {"max_running_per_key": 5}),
            ("PUT", "/job-types/ext.least", {"payload_schema": {}}),
            ("POST", "/queues/default/lease", {"max": 1, "types": ["ext.least"]}),
            ("POST", "/webhook-secret/rotate", None),
        ):
            said = await client.http.request(method, path, json=body)
            assert said.status_code < 300, f"{method} {path}: {said.text}"
        await receiver.wait_for(1, timeout=30)
        for service in running.services.values():
            assert "permission denied" not in service.log()
            assert "loop_failed" not in service.log()

    connection = await asyncpg.connect(url)
    try:
        for sql in DENIED:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
    finally:
        await connection.close()

    await _submitters(server)


async def _submitters(server: DatabaseServer) -> None:
    """An application's role submits for its own tenant, and reaches nothing else; SET ROLE decides."""
    admin = await asyncpg.connect(server.url(NAME))
    await admin.execute(
        "CREATE ROLE shop LOGIN; CREATE ROLE stranger LOGIN; GRANT accepted_submitter TO shop, stranger"
    )
    await admin.execute("INSERT INTO accepted.submitters VALUES ('shop', 'acme', 50)")
    shop, stranger = [
        await asyncpg.connect(server.url(NAME).replace("postgres@", f"{name}@")) for name in ("shop", "stranger")
    ]
    id = await shop.fetchval("SELECT accepted.submit('noop')")
    assert await admin.fetchval("SELECT tenant FROM accepted.jobs WHERE id = $1", id) == "acme"
    with pytest.raises(asyncpg.ProgramLimitExceededError, match="larger than 50 bytes"):
        await shop.fetchval("SELECT accepted.submit('noop', jsonb_build_object('n', repeat('x', 50)))")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="role stranger submits for no tenant"):
        await stranger.fetchval("SELECT accepted.submit('noop')")
    for sql in [*DENIED, "SELECT 1 FROM accepted.jobs", "DELETE FROM accepted.submitters", "SET ROLE accepted"]:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await shop.execute(sql)
    await admin.execute("REVOKE accepted_submitter FROM stranger; GRANT shop TO stranger")
    await stranger.execute("SET ROLE shop")
    id = await stranger.fetchval("SELECT accepted.submit('noop')")
    assert await admin.fetchval("SELECT tenant FROM accepted.jobs WHERE id = $1", id) == "acme"
    for connection in (shop, stranger, admin):
        await connection.close()
