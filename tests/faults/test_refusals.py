"""A ledger that does not take us: each process and each command says so in one line, and what to do."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.faults import effects
from tests.faults.cluster import Cluster
from tests.support.servers.postgres import STRICT_PASSWORD, STRICT_USER, PostgresServer, strict_postgres
from tests.support.service.processes import Service, logged, run
from tests.support.service.running_service import accepted
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WRONG = "hunter2wrong"


@pytest.fixture(scope="module")
def strict_server() -> Iterator[PostgresServer]:
    with strict_postgres() as server:
        server.execute(f"ALTER ROLE {STRICT_USER} CREATEDB")
        yield server


def _url(server: PostgresServer, database: str, password: str = STRICT_PASSWORD) -> str:
    return f"postgresql://{STRICT_USER}:{password}@127.0.0.1:{server.port}/{database}"


def _migrated(server: PostgresServer, database: str) -> str:
    server.execute(f"CREATE DATABASE {database} OWNER {STRICT_USER}")
    run("migrate", env={"ACCEPTED_DATABASE_URL": _url(server, database)})
    return _url(server, database)


def _wrong_password(server: PostgresServer) -> tuple[str, Callable[[], object], str]:
    url = _migrated(server, "shop")
    server.execute(f"ALTER ROLE {STRICT_USER} PASSWORD '{WRONG}'")
    return url, lambda: server.execute(f"ALTER ROLE {STRICT_USER} PASSWORD '{STRICT_PASSWORD}'"), "correct the user or"


def _wrong_database(server: PostgresServer) -> tuple[str, Callable[[], object], str]:
    return _url(server, "later"), lambda: _migrated(server, "later"), "create the database"


def _no_schema(server: PostgresServer) -> tuple[str, Callable[[], object], str]:
    server.execute(f"CREATE DATABASE bare OWNER {STRICT_USER}")
    url = _url(server, "bare")
    return url, lambda: run("migrate", env={"ACCEPTED_DATABASE_URL": url}), "run `accepted migrate`"


@pytest.mark.parametrize("trouble", [_wrong_password, _wrong_database, _no_schema])
@pytest.mark.fault("F64", moment="at start")
async def test_every_process_says_it_in_one_line_and_goes_on_when_it_is_mended(
    cluster: Cluster,
    strict_server: PostgresServer,
    trouble: Callable[[PostgresServer], tuple[str, Callable[[], object], str]],
) -> None:
    """Nobody calls itself ready before, and nobody has to be started again."""
    url, mend, to_do = await asyncio.to_thread(trouble, strict_server)
    cluster.env["ACCEPTED_DATABASE_URL"] = url
    starting = asyncio.create_task(cluster.start(workers=1))
    try:
        await _said(cluster)
        for service in cluster.services:
            said = _once(service, "waiting_for_ledger")
            _names_it(said, strict_server, url, to_do)
            assert '_ready"' not in service.log(10_000)
        async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=30) as api:
            answer = await api.get("/readyz")
            assert answer.status_code == 503
            (problem,) = answer.json()["problems"]
            _names_it(problem, strict_server, url, to_do)
            assert (await api.get("/healthz")).status_code == 200
        commands = ["keys", "list"], ["migrate", "--check"], *([["migrate"]] if trouble is not _no_schema else [])
        for done in await asyncio.gather(
            *(accepted(*command, env={"ACCEPTED_DATABASE_URL": url}) for command in commands)
        ):
            assert done.code == 1
            (line,) = done.err.splitlines()
            _names_it(line, strict_server, url, to_do)
    finally:
        await asyncio.to_thread(mend)
    await starting
    for service in cluster.services:
        assert "Traceback" not in service.log(10_000)
        assert "hunter2" not in service.log(10_000)


@pytest.mark.fault("F64", moment="newer schema")
async def test_a_newer_schema_is_said_and_served(cluster: Cluster, strict_server: PostgresServer) -> None:
    """As after going back by one release. `migrate` of the older release changes nothing."""
    url = await asyncio.to_thread(_migrated, strict_server, "newer")
    strict_server.execute("UPDATE accepted.alembic_version SET version_num = '9999'", "newer")
    cluster.env["ACCEPTED_DATABASE_URL"] = url
    await cluster.start(workers=1)
    for service in cluster.services:
        _names_it(_once(service, "schema_ahead"), strict_server, url, "install the newer version")
    refused = await accepted("migrate", env={"ACCEPTED_DATABASE_URL": url})
    assert refused.code == 1
    (line,) = refused.err.splitlines()
    _names_it(line, strict_server, url, "install the newer version")
    listed = await accepted("keys", "list", env={"ACCEPTED_DATABASE_URL": url})
    assert listed.code == 0


COMMANDS = (["api", "--port", "0"], ["worker"], ["scheduler"], ["migrate"], ["migrate", "--check"], ["keys", "list"])


@pytest.mark.fault("F65", moment="at start")
async def test_a_parameter_that_libpq_does_not_have(database_url: str) -> None:
    """The same line from every command, and nothing is started."""
    env = {"ACCEPTED_DATABASE_URL": f"{database_url}?sslmod=require"}
    done = [await accepted(*command, env=env) for command in COMMANDS]
    assert {one.code for one in done} == {1}
    (line,) = {one.err for one in done}
    assert line.startswith("accepted: ACCEPTED_DATABASE_URL=(hidden): has a parameter sslmod")
    assert 'did you mean "sslmode"?' in line
    assert len(line.splitlines()) == 1


@pytest.mark.fault("F65", moment="understood")
async def test_parameters_of_libpq_are_understood_by_every_process(
    cluster: Cluster, strict_server: PostgresServer
) -> None:
    bare = await asyncio.to_thread(_migrated, strict_server, "parameters")
    named = "application_name=shop&connect_timeout=5&sslmode=prefer&target_session_attrs=read-write&keepalives_idle=60"
    url = cluster.env["ACCEPTED_DATABASE_URL"] = f"{bare}?{named}&options=-c%20work_mem%3D9MB"
    cluster.env["ACCEPTED_BROKER_URL"] = "postgres"
    await cluster.start(workers=1)
    for command in (["migrate"], ["migrate", "--check"], ["keys", "list"]):
        assert (await accepted(*command, env={"ACCEPTED_DATABASE_URL": url})).code == 0
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=30) as api:
        answer = await api.post("/jobs", json={"type": "noop", "queue": effects.QUEUE}, headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "succeeded"
    names = strict_server.execute(
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = 'parameters'"
    ).splitlines()
    assert names == ["shop"]


async def _said(cluster: Cluster) -> None:
    await until(lambda: len(cluster.services) == 3)
    await asyncio.gather(*(service.wait_ready(logged("waiting_for_ledger")) for service in cluster.services))


def _once(service: Service, event: str) -> str:
    """What the one line of this kind says; repetitions are counted in lines of their own."""
    lines = map(json.loads, service.log(10_000).splitlines())
    (said,) = [line["error"] for line in lines if line["event"] == event and "repeated" not in line]
    return str(said)


def _names_it(line: str, server: PostgresServer, url: str, to_do: str) -> None:
    database = url.rpartition("/")[2]
    assert re.search(rf"127\.0\.0\.1:{server.port}, user '{STRICT_USER}', database '{database}'", line), line
    assert to_do in line
    assert "hunter2" not in line
