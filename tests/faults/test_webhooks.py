"""Receivers that misbehave: every webhook arrives all the same, and nobody else waits for them."""

import gzip
import time
from pathlib import Path

import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import QUEUES, Cluster, misled
from tests.faults.table import Measured
from tests.faults.webhooks import NO_LONGER_WAITING, NOTHING_AGAINST, WebhookJournal
from tests.support.servers.receiver import HANG_UP, Answer, Request
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RETRIED_WITHIN = 60.0  # seconds: a timeout of 15, the first wait of 5, and a busy machine
BOMB = gzip.compress(bytes(50 * 2**20))

MODES = {
    "500": Answer(500),
    "429": Answer(429, headers={"retry-after": "3"}),
    "429-huge": Answer(429, headers={"retry-after": "-99999999999999999999"}),
    "429-date": Answer(429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "503": Answer(503, body=b"x" * 100_000),
    "never": Answer(after=40),
    "hang-up": HANG_UP,
    "garbage": Answer(raw=b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n"),
    "half": Answer(raw=b"HTTP/1.1 200 OK\r\ncontent-len"),
    "headers": Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200_000),
}
"""What a receiver does the first time; the second time it answers 200."""

TAKEN = {
    "204": Answer(204),
    "big": Answer(200, body=b"x" * 20 * 2**20),
    "bomb": Answer(200, body=BOMB, headers={"content-encoding": "gzip"}),
}
"""What counts as taken the first time."""


@pytest.fixture
def journal(tmp_path: Path) -> WebhookJournal:
    return WebhookJournal(tmp_path)


@pytest.mark.fault("F42", moment="under load")
async def test_receivers_that_misbehave(
    cluster: Cluster, client: Client, ledger: Ledger, journal: WebhookJournal, measured: Measured
) -> None:
    seen: set[str] = set()

    def answer(request: Request) -> Answer:
        mode = request.path.strip("/")
        first = request.headers["webhook-id"] not in seen
        seen.add(request.headers["webhook-id"])
        return TAKEN.get(mode) or (MODES[mode] if first and mode in MODES else Answer())

    journal.answer = answer
    await cluster.start(workers=1, concurrency=20)
    async with journal.receiver() as receiver:
        ids = [await client.accept(callback_url=f"{receiver.url}/{mode}") for mode in (*MODES, *TAKEN)]
        begun = time.monotonic()
        healthy = [await client.accept(callback_url=f"{receiver.url}/well") for _ in range(30)]
        await journal.check(healthy, within=20)
        measured("thirty webhooks to a healthy receiver beside them", time.monotonic() - begun, 20)
        await journal.check(ids, within=RETRIED_WITHIN)
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F69", moment="backlog")
async def test_a_receiver_that_is_slow(
    cluster: Cluster, client: Client, ledger: Ledger, journal: WebhookJournal, measured: Measured
) -> None:
    """Nothing fails, so nothing opens: forty webhooks that take 3 s each, beside four slots for jobs."""

    async def answer(request: Request) -> Answer:
        return Answer(after=3 if request.path == "/slow" else 0)

    journal.answer = answer
    await cluster.start(workers=1, concurrency=4)
    async with journal.receiver() as slow, journal.receiver() as well:
        ids = [await client.accept(callback_url=f"{slow.url}/slow") for _ in range(40)]
        await slow.wait_for(8, 30)
        begun = time.monotonic()
        healthy = [await client.accept(callback_url=f"{well.url}/well") for _ in range(20)]
        await journal.check(healthy, within=10)
        measured("twenty jobs with webhooks elsewhere, beside forty slow ones", time.monotonic() - begun, 10)
        assert journal.missing(set(ids))
        await journal.check(ids, within=60)
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F42", moment="idle")
async def test_receivers_that_say_no_for_good(
    cluster: Cluster, client: Client, ledger: Ledger, journal: WebhookJournal
) -> None:
    """410 ends the delivery; a redirect is no success and is not followed."""
    journal.answer = lambda request: (
        Answer(410) if request.path == "/gone" else Answer(301, headers={"location": "/elsewhere"})
    )
    await cluster.start(workers=1)
    async with journal.receiver() as receiver:
        gone = await client.accept(callback_url=f"{receiver.url}/gone")
        await until(lambda: _deliveries(ledger, "failed"), 30, "the delivery is given up")
        moved = await client.accept(callback_url=f"{receiver.url}/moved")
        await until(lambda: moved in journal.ids, 30, "the redirect was met")
        await _wait_no_longer(ledger, "failed", 2)
        assert {request.path for request in receiver.requests} == {"/gone", "/moved"}
        assert sum(request.path == "/gone" for request in receiver.requests) == 1
        assert not journal.accepted[gone]
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F43", moment="after the request")
async def test_an_answer_that_is_lost(
    cluster: Cluster, client: Client, ledger: Ledger, journal: WebhookJournal
) -> None:
    """The receiver took it, and we cannot know: the same id and the same bytes come again."""
    tries: list[str] = []

    def answer(request: Request) -> Answer:
        tries.append(request.headers["webhook-id"])
        return HANG_UP if tries.count(tries[-1]) == 1 else Answer()

    journal.answer = answer
    await cluster.start(workers=1)
    async with journal.receiver() as receiver:
        ids = [await client.accept(callback_url=receiver.url) for _ in range(10)]
        await journal.check(ids, within=RETRIED_WITHIN)
        assert len(tries) == 2 * len(ids)
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F44", moment="idle")
async def test_a_receiver_away_for_the_whole_schedule(
    cluster: Cluster, client: Client, ledger: Ledger, journal: WebhookJournal
) -> None:
    """Three days pass in the ledger: the delivery fails for all to see, and its job stays as it is."""
    journal.answer = lambda _: Answer(503)
    await cluster.start(workers=1)
    async with journal.receiver() as receiver:
        job_id = await client.accept(callback_url=receiver.url)
        await until(lambda: job_id in journal.ids, 30, "the first try")
        await _wait_no_longer(ledger, "failed", 1)
        assert len(receiver.requests) == 10
        assert (len(journal.ids[job_id]), len(journal.bodies[job_id])) == (1, 1)
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F45", moment="under load")
async def test_names_that_do_not_resolve(
    cluster: Cluster, client: Client, ledger: Ledger, journal: WebhookJournal, tmp_path: Path, measured: Measured
) -> None:
    """A slow or broken DNS holds up nobody else; a name that points inside is refused for good."""
    lies = tmp_path / "false-names"
    lies.touch()
    await cluster.start(workers=0)
    await cluster.add_worker(20, QUEUES, env=misled(FALSE_NAMES=str(lies)))
    async with journal.receiver() as receiver:
        port = receiver.port
        names = [f"{kind}{n}.test" for kind in ("servfail", "nxdomain", "slow") for n in range(3)]
        ids = [await client.accept(callback_url=f"http://{name}:{port}/") for name in names]
        await client.accept(callback_url=f"http://private.test:{port}/")
        begun = time.monotonic()
        well = [await client.accept(callback_url=receiver.url) for _ in range(20)]
        await journal.check(well, within=30)
        measured("twenty webhooks by address beside them", time.monotonic() - begun, 20)
        await until(lambda: _deliveries(ledger, "failed"), 30, "the private address is refused")
        lies.unlink()
        await _wait_no_longer(ledger, "succeeded", len(ids) + len(well))
        await journal.check(ids)
        await check(ledger, client, cluster.journal)
        assert await _deliveries(ledger, "failed") == 1


async def _deliveries(ledger: Ledger, status: str) -> int:
    sql = "SELECT count(*) FROM jobs WHERE type = 'webhook.deliver' AND status = $1"
    return int(await ledger.value(sql, status))


async def _wait_no_longer(ledger: Ledger, status: str, count: int) -> None:
    """Let every wait of a delivery be over at once, until so many have that status."""

    async def hurried() -> bool:
        await ledger.execute(NO_LONGER_WAITING, NOTHING_AGAINST)
        return await _deliveries(ledger, status) >= count

    await until(hurried, RETRIED_WITHIN, f"{count} deliveries {status}", interval=0.3)
