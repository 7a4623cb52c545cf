"""Handlers in child processes, and built-in types that use them: real processes, over HTTP, with leases of 1 s."""

import asyncio
import base64
import io
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from PIL import Image

from tests.support.clients.client import Client, check_problem, seconds_between
from tests.support.servers import mail_server
from tests.support.servers.mail_server import PASSWORD, USER, MailServer
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.processes import Service, logged
from tests.support.service.running_service import Running, serving, types_known
from tests.support.waiting import until

LEASE_TTL = 1.0  # seconds
GRACE = 3.0  # seconds
ONCE = {"max_attempts": 1}


@pytest.fixture(scope="module")
async def mail(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[MailServer, Path]]:
    authority, context = mail_server.authority(tmp_path_factory.mktemp("mail"))
    async with mail_server.serving(context) as server:
        yield server, authority


@pytest.fixture(scope="module")
async def place(
    database_server: DatabaseServer, database_template: str, mail: tuple[MailServer, Path]
) -> AsyncIterator[Running]:
    """An API, a worker and a scheduler of their own, without RabbitMQ."""
    server, authority = mail
    name = f"processes_{uuid4().hex}"
    env = {
        "ACCEPTED_AUTH": "off",
        "ACCEPTED_HANDLERS": (
            "accepted_worker.handlers,tests.support.handlers.process_handlers,tests.support.handlers.process_tools"
        ),
        "ACCEPTED_LEASE_TTL": f"{LEASE_TTL:g}",
        "ACCEPTED_SHUTDOWN_GRACE": f"{GRACE:g}",
        "ACCEPTED_SMTP_URL": f"smtp://{USER}:{PASSWORD.replace('@', '%40')}@localhost:{server.port}",
        "ACCEPTED_SMTP_FROM": "noreply@shop.example",
        "SSL_CERT_FILE": str(authority),
    }
    async with serving(database_server.create_database(name, template=database_template), env) as running:
        yield running
    database_server.drop_database(name)


@pytest.fixture(scope="module")
async def client(place: Running) -> Client:
    client = place.client()
    await types_known(client)
    return client


def children(worker: Service) -> list[psutil.Process]:
    return psutil.Process(worker.pid).children(recursive=True)


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def pids_in(file: Path) -> list[psutil.Process]:
    """The processes of an attempt that holds its interpreter, and of the program that it started."""
    text = await until(lambda: file.exists() and file.read_text(), 60, "the attempt to run")
    return [psutil.Process(int(pid)) for pid in str(text).split()]


def a_picture(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_an_idle_worker_has_no_children(client: Client, place: Running) -> None:
    await client.finish("noop")
    assert children(place.services["worker"]) == []


async def test_a_thumbnail(client: Client) -> None:
    image = base64.b64encode(a_picture((640, 480))).decode()
    job = await client.finish("image.thumbnail", {"image": image, "width": 64, "height": 64, "format": "webp"})
    assert job["status"] == "succeeded", job
    result = job["result"]
    made = base64.b64decode(result.pop("image"))
    assert result == {"width": 64, "height": 48, "format": "webp", "bytes": len(made)}
    again = Image.open(io.BytesIO(made))
    assert (again.format, again.size) == ("WEBP", (64, 48))


async def test_a_thumbnail_of_a_picture_by_url(client: Client) -> None:
    async with Receiver() as receiver:
        receiver.respond = lambda request: Answer(200, a_picture((300, 600))) if request.path == "/a" else Answer(404)
        box = {"width": 100, "height": 100}
        job = await client.finish("image.thumbnail", {"url": f"{receiver.url}/a", **box})
        assert (job["result"]["width"], job["result"]["height"]) == (50, 100)
        missing = await client.finish("image.thumbnail", {"url": f"{receiver.url}/b", **box})
        assert (missing["status"], missing["error"]["class"]) == ("failed", "not_found")
    broken = await client.finish("image.thumbnail", {"image": base64.b64encode(b"text").decode(), **box})
    assert (broken["attempt"], broken["error"]["class"]) == (1, "invalid")
    noisy = base64.b64encode(a_picture((1, 1)))
    both = await client.post(
        {"type": "image.thumbnail", "payload": {"image": noisy.decode(), "url": receiver.url, **box}}
    )
    check_problem(both, 422, "/payload")


async def test_a_long_computation_keeps_its_lease_and_delays_no_other_job(client: Client) -> None:
    job = await client.submit("deed", {"do": "compute", "arg": 3.5 * LEASE_TTL})
    await client.until_status(job["id"], "running")
    beside = await client.finish("noop")
    assert beside["status"] == "succeeded"
    assert (await client.job(job["id"]))["status"] == "running"
    assert (await client.finished(job["id"]))["status"] == "succeeded"
    assert [each["outcome"] for each in await client.attempts(job["id"])] == ["succeeded"]


async def test_a_timeout_kills(client: Client, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    job = await client.submit("deed", {"do": "hold", "arg": str(pids)}, timeout=1, retry=ONCE)
    family = await pids_in(pids)
    ended = await client.finished(job["id"], timeout=30)
    assert (ended["error"]["class"], ended["error"]["message"]) == ("timeout", "ran longer than 1 s")
    await until(lambda: not alive(family), 10, "the child and what it started to be dead")


async def test_a_cancel_kills(client: Client, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    job = await client.submit("deed", {"do": "hold", "arg": str(pids)})
    family = await pids_in(pids)
    assert (await client.http.post(f"/jobs/{job['id']}/cancel")).status_code == 202
    await client.until_status(job["id"], "cancelled", timeout=10)
    await until(lambda: not alive(family), 10, "the child and what it started to be dead")


async def test_three_crashes_are_the_most_and_the_worker_lives(client: Client, place: Running) -> None:
    job = await client.finish("deed", {"do": "exit", "arg": 7})
    assert (job["status"], job["attempt"], job["error"]["class"]) == ("failed", 3, "crashed")
    assert "exit code 7" in job["error"]["message"]
    attempts = await client.attempts(job["id"])
    assert [each["outcome"] for each in attempts] == ["crashed"] * 3
    assert len({each["worker"] for each in attempts}) == 1
    assert place.services["worker"].running


async def test_an_exception_in_a_process_is_recorded(client: Client) -> None:
    job = await client.finish("deed", {"do": "raise", "arg": "value"}, retry=ONCE)
    assert (job["error"]["class"], job["error"]["message"]) == ("transient", "ValueError: bad ? value")
    (attempt,) = await client.attempts(job["id"])
    assert "in _raise" in attempt["traceback"]
    assert "pool" not in attempt["traceback"]


async def test_progress_of_a_process_is_seen(client: Client) -> None:
    job = await client.finish("deed", {"do": "report", "arg": [10, 60]})
    assert job["progress"] == {"percent": 60, "message": "60 %"}


async def test_the_tools_in_a_process_across_a_crash(client: Client, tmp_path: Path) -> None:
    """A workflow whose second job dies once, after its step and after it submitted a child."""
    first = {"ref": "a", "type": "use", "payload": {"do": "nothing", "arg": [1]}}
    second = {"ref": "b", "type": "use", "payload": {"do": "work", "place": str(tmp_path)}, "depends_on": ["a"]}
    answer = await client.http.post("/workflows", json={"jobs": [first, second]})
    _, made = answer.json()["jobs"]
    job = await client.finished(made["id"])
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job
    assert (job["result"]["before"], job["result"]["noted"]["paid"]) == ({"a": [1]}, [5, "ran"])
    assert job["result"]["cancelled"] is False
    assert [each["outcome"] for each in await client.attempts(job["id"])] == ["crashed", "succeeded"]
    assert len((tmp_path / "journal").read_text().splitlines()) == 1, "the step ran once"
    noops = (await client.get("/jobs?type=noop")).json()["items"]
    (child,) = [each for each in noops if each["parent_id"] == job["id"]]
    assert (await client.finished(child["id"]))["status"] == "succeeded"
    refused = await client.finish("use", {"do": "transaction"})
    assert (refused["status"], refused["attempt"], refused["error"]["class"]) == ("failed", 1, "invalid")


async def test_an_email(client: Client, mail: tuple[MailServer, Path]) -> None:
    server, _ = mail
    email = {"to": ["Jane <jane@example.com>", "550.x@example.com"], "subject": "Hello", "text": "Hi."}
    job = await client.finish("email.send", email)
    assert job["status"] == "succeeded", job
    assert list(job["result"]["refused"]) == ["550.x@example.com"]
    (received,) = server.received
    assert (received.sender, received.recipients) == ("noreply@shop.example", ["jane@example.com"])
    assert received.message["Message-ID"] == f"<{job['id']}@shop.example>" == job["result"]["message_id"]
    refused = await client.post({"type": "email.send", "payload": email | {"subject": "a\r\nBcc: x@y.example"}})
    check_problem(refused, 422, "/payload/subject")


async def test_a_worker_told_to_stop_hands_back_and_leaves_no_child(
    client: Client, place: Running, tmp_path: Path
) -> None:
    worker, pids = place.services["worker"], tmp_path / "pids"
    job = await client.submit("deed", {"do": "hold", "arg": str(pids)}, timeout=50)
    family = await pids_in(pids) + children(worker)
    assert await worker.terminate(GRACE + 10) == 0
    assert alive(family) == []
    (attempt,) = await client.attempts(job["id"])
    assert attempt["outcome"] == "handed_back"
    assert seconds_between(attempt["started_at"], attempt["finished_at"]) < GRACE + 1
    assert (await client.http.post(f"/jobs/{job['id']}/cancel")).status_code == 202
    await worker.start().wait_ready(logged("worker_ready"))


async def test_a_worker_that_is_killed_leaves_no_child(client: Client, place: Running, tmp_path: Path) -> None:
    worker, pids = place.services["worker"], tmp_path / "pids"
    job = await client.submit("deed", {"do": "hold", "arg": str(pids)}, retry=ONCE)
    family = await pids_in(pids) + children(worker)
    worker.signal(signal.SIGKILL)
    await asyncio.gather(
        worker.wait_exit(5), until(lambda: not alive(family), 2, lambda: f"{alive(family)} to be dead")
    )
    ended = await client.finished(job["id"])
    assert (ended["status"], ended["error"]["class"]) == ("failed", "crashed")
    worker.start()
