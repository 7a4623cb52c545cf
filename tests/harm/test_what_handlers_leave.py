"""What handlers leave in and beside their worker: signal handlers, and copies of its process."""

import signal
import time

import psutil
import pytest

from tests.faults.table import Measured
from tests.support.handlers.misbehaving import TAKEN
from tests.support.service.running_service import serving, types_known
from tests.support.waiting import until

ENV = {
    "ACCEPTED_AUTH": "off",
    "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.misbehaving",
}


@pytest.mark.fault("F93", moment="SIG_IGN for SIGTERM, another handler, none, no wake-up")
async def test_a_worker_stops_whatever_handlers_did_to_its_signals(database_url: str) -> None:
    async with serving(database_url, ENV) as running:
        client, worker = running.client(), running.services["worker"]
        await types_known(client)
        for number, how in enumerate(TAKEN, start=1):
            assert (await client.finish("takes.signals", {"how": how}))["status"] == "succeeded"
            assert worker.log(1000).count("signal_handler_restored") == number, how
        assert await worker.terminate() == 0


@pytest.mark.fault("F94", moment="the worker is killed (-9)")
async def test_a_fork_has_no_connection_of_its_worker_and_ends_with_it(
    database_url: str, amqp_url: str, measured: Measured
) -> None:
    async with serving(database_url, ENV | {"ACCEPTED_BROKER_URL": amqp_url}) as running:
        client, worker = running.client(), running.services["worker"]
        await types_known(client)
        fork = psutil.Process((await client.finish("forks.away"))["result"])
        assert connections(psutil.Process(worker.pid))
        assert not connections(fork)
        worker.signal(signal.SIGKILL)
        begun = time.monotonic()
        await until(lambda: not fork.is_running() or fork.status() == psutil.STATUS_ZOMBIE, 10, "the fork to end")
        measured("ended", time.monotonic() - begun, 5)


def connections(process: psutil.Process) -> list[object]:
    """To ledger, broker and whatever else has an address."""
    return [one for one in process.net_connections("all") if one.raddr]
