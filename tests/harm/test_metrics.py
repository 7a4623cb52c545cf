"""The port of the metrics: what each process shows there, and nobody else sees at the port of the API."""

import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest

from accepted import metrics
from tests.support.clients.client import Client
from tests.support.clients.lease_client import one_lease, register, say
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.live_api import api
from tests.support.service.processes import Service, answers, logged
from tests.support.service.running_service import Running, accepted, serving, types_known
from tests.support.waiting import until

pytestmark = pytest.mark.fault("F86", moment="a stranger reads /metrics")


@dataclass(frozen=True)
class Watched:
    """A service whose API has a port for metrics; `more` starts other processes of it."""

    running: Running
    port: int
    more: Callable[..., Service]
    started: list[Service]


async def get(port: int, path: str = "/metrics") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


@pytest.fixture(scope="module")
async def watched(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Watched]:
    name = f"watched_{uuid4().hex}"
    port = free_port()
    url = database_server.create_database(name, template=database_template)
    started: list[Service] = []

    def more(*arguments: str, port: int) -> Service:
        started.append(Service(*arguments, env={**running.env, "ACCEPTED_METRICS_PORT": str(port)}))
        return started[-1].start()

    async with serving(url, {"ACCEPTED_METRICS_PORT": str(port)}, dev=True) as running:
        yield Watched(running, port, more, started)
        for service in started:
            service.remove()
    database_server.drop_database(name)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        yield other.getsockname()[1]


async def test_the_public_port_has_no_metrics_when_they_have_their_own(watched: Watched) -> None:
    client = watched.running.client()
    await types_known(client)
    await client.finish("noop", queue="mine")
    assert (await client.http.get("/metrics")).status_code == 404
    assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]
    shown = await get(watched.port)
    assert shown.headers["Content-Type"].startswith("text/plain")
    assert 'accepted_jobs_accepted_total{queue="mine"} 1.0' in shown.text
    assert "accepted_rejected_messages 0.0" in shown.text
    alive = await get(watched.port, "/healthz")
    assert alive.json() == {"status": "ok"}
    for path in ("/jobs", "/readyz", "/metrics/", "/"):
        assert (await get(watched.port, path)).status_code == 404
    assert f":{watched.port}" in watched.running.services["dev"].log()


@pytest.mark.parametrize("command", ["worker", "scheduler", "api"])
async def test_each_process_has_a_port_until_it_ends(watched: Watched, command: str) -> None:
    port = free_port()
    more = ("--port", str(free_port())) if command == "api" else ()
    service = watched.more(command, *more, port=port)
    await service.wait_ready(answers(f"http://127.0.0.1:{port}/healthz"))
    series = {"worker": "accepted_attempts_total", "scheduler": "accepted_loop_rows_total"}
    assert series.get(command, "accepted_http_requests_total") in (await get(port)).text
    assert "accepted_metrics" in service.log()
    assert await service.terminate() == 0
    with pytest.raises(httpx.ConnectError):
        await get(port)


async def test_a_port_that_is_taken_is_refused_in_one_line(watched: Watched, taken: int) -> None:
    commands = [("worker",), ("scheduler",), ("api", "--port", "0"), ("api", "--port", "0", "--workers", "2")]
    for command in commands:
        ended = await accepted(*command, env={**watched.running.env, "ACCEPTED_METRICS_PORT": str(taken)})
        assert ended.code == 1
        assert re.fullmatch(r"accepted: .*port \d+ of .*give another ACCEPTED_METRICS_PORT\n", ended.err), ended.err


@pytest.mark.parametrize("own_port", [True, False])
async def test_several_api_processes_give_one_answer(watched: Watched, own_port: bool) -> None:
    """Each request comes on a connection of its own, so that both processes answer some."""
    await types_known(watched.running.client())
    public, port = free_port(), free_port() if own_port else 0
    env = {name: value for name, value in watched.running.env.items() if name != "ACCEPTED_METRICS_PORT"}
    more = ("--metrics-port", str(port)) if own_port else ()
    service = Service("api", "--port", str(public), "--workers", "2", *more, env=env | {"ACCEPTED_AUTH": "off"})
    watched.started.append(service)
    await service.start().wait_ready(logged("accepted_api"))
    queue = f"together-{own_port}".lower()
    for sent in range(1, 31):
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            body = {"type": "noop", "queue": queue}
            assert (await client.post(f"http://127.0.0.1:{public}/jobs", json=body)).status_code == 202
        text = (await get(port or public)).text
        assert f'accepted_jobs_accepted_total{{queue="{queue}"}} {sent}.0' in text
    assert re.search(r"^accepted_build_info\{.*\} 1\.0$", text, re.MULTILINE)
    assert re.search(r"^accepted_rejected_messages 0\.0$", text, re.MULTILINE)
    if own_port:
        assert service.log().count("metrics_port_not_ours") == 1
    assert await service.terminate() == 0


async def test_silent_clients_of_the_port_are_hung_up_on(watched: Watched) -> None:
    held = [socket.create_connection(("127.0.0.1", watched.port)) for _ in range(20)]

    async def answered() -> bool:
        try:
            return (await get(watched.port)).status_code == 200
        except httpx.TransportError:
            return False

    await until(answered, 30, "an answer beside silent clients")
    for each in held:
        each.close()


def shown(text: str, metric: str, label: str) -> set[str]:
    return {*re.findall(rf'^{metric}\{{.*{label}="([^"]*)"', text, re.MULTILINE)}


async def test_queues_that_a_client_names_without_end_share_a_series(watched: Watched) -> None:
    client = watched.running.client()
    await types_known(client)
    most, more = metrics.QUEUES.most, 50
    jobs = [{"type": "noop", "queue": f"q{number}", "delay": 9999} for number in range(most + more)]
    answer = await client.http.post("/batches", json={"jobs": jobs})
    assert answer.status_code == 202, answer.text
    text = (await get(watched.port)).text
    queues = shown(text, "accepted_jobs_accepted_total", "queue")
    assert len(queues - {metrics.OTHERS}) == most
    counted = re.search(rf'accepted_jobs_accepted_total{{queue="{metrics.OTHERS}"}} ([0-9.]+)', text)
    assert counted is not None
    assert float(counted[1]) >= more


async def run_by_http(client: Client, type: str) -> None:
    assert (await register(client, type)).status_code == 201
    await client.submit(type, queue="node")
    assert (await say(client, await one_lease(client), "complete")).status_code == 200


async def test_types_that_a_client_puts_without_end_share_a_series(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.LEASED_TYPES, "most", len(metrics.LEASED_TYPES.shown) + 2)
    async with api(database_url) as one:
        client = await one.client()
        for number in range(4):
            await run_by_http(client, f"put.{number}")
        text = (await client.get("/metrics")).text
    for metric in ("accepted_attempts_total", "accepted_attempt_seconds_bucket"):
        types = shown(text, metric, "type")
        assert {"put.0", "put.1", metrics.OTHERS} <= types
        assert not {"put.2", "put.3"} & types
    assert f'accepted_attempts_total{{outcome="succeeded",type="{metrics.OTHERS}"}} 2.0' in text
