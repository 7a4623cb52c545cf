"""One turn of one peer: its submissions a second, its drained jobs a second, and the seconds to a first job.

The API runs throughout. The jobs are submitted while no worker runs, so that all of them wait when the workers start.
Then the workers stop, one more job is submitted, and one worker starts again.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

from tests.benchmarks.client import drive
from tests.benchmarks.figures import Failed
from tests.benchmarks.peers.counts import Ended
from tests.benchmarks.peers.peer import PREPARED_WITHIN, Peer
from tests.benchmarks.peers.servers import Place, listening
from tests.benchmarks.peers.servers import place as new_place
from tests.support.servers.children import descendants, kill_all
from tests.support.servers.ports import free_port
from tests.support.service.processes import Service
from tests.support.waiting import until

WARMUP = 500
"""Jobs that are submitted before the clock runs: the first ones open connections and make threads."""

DRAINED_WITHIN = 300.0  # seconds
FIRST_WITHIN = 60.0  # seconds
STOPPED_WITHIN = 10.0  # seconds
LOOK_EVERY = 0.5
"""Seconds. The times are those that the jobs or the database note, so how often we look shows in no figure."""


class Figures(NamedTuple):
    """Of one turn: a second, a second, and seconds."""

    submit: float
    drain: float
    first: float


async def measured(peer: Peer, jobs: int) -> Figures:
    """Raises `Failed` where a job was not accepted or did not end."""
    jobs = max(int(jobs * peer.share), 1)
    with new_place(peer.uses) as place:
        await peer.prepared(place)
        async with AsyncExitStack() as stack:
            port = free_port()
            api = peer.api_on(port, place)
            for service in (api, *peer.beside(place)):
                stack.callback(service.remove)
                service.start()
            await api.wait_ready(lambda _: listening(port), PREPARED_WITHIN)
            submit = await _submitted(peer, place, port, jobs)
            drain = await _drained(peer, place, WARMUP + jobs)
            return Figures(submit, drain, await _first(peer, place, port))


async def _submitted(peer: Peer, place: Place, port: int, jobs: int) -> float:
    """Jobs a second that are answered with 202."""
    await asyncio.to_thread(drive, port, requests=WARMUP)
    load = await asyncio.to_thread(drive, port, requests=jobs)
    if load.answered != jobs:
        raise Failed(f"only {load.answered} of {jobs} jobs were accepted in {load.seconds:.0f} s: take fewer")
    await peer.until_submitted(place)
    return load.rate


async def _drained(peer: Peer, place: Place, jobs: int) -> float:
    """Jobs a second, from the first that ends to the last."""
    async with AsyncExitStack() as stack:
        workers = [_started(stack, peer, place) for _ in range(peer.workers)]
        ended = await _until(peer, place, workers, lambda ended: ended.jobs >= jobs, DRAINED_WITHIN)
        await _stopped(workers)
    return jobs / (ended.last - ended.first)


async def _first(peer: Peer, place: Place, port: int) -> float:
    """Seconds from the start of a worker to the end of the only job that waits.

    The time tells that job from those before, not their number: a peer may run a job twice.
    """
    await asyncio.to_thread(drive, port, requests=1)
    await peer.until_submitted(place)
    async with AsyncExitStack() as stack:
        begun = time.time()
        worker = _started(stack, peer, place)
        ended = await _until(peer, place, [worker], lambda ended: ended.last > begun, FIRST_WITHIN)
        await _stopped([worker])
    return ended.last - begun


async def _stopped(workers: list[Service]) -> None:
    """Let them ack what they ran. One that does not end is killed by its stack, and here what it leaves behind."""
    family = [process for worker in workers for process in descendants(worker.pid)]
    for worker in workers:
        worker.signal(signal.SIGTERM)
    with suppress(AssertionError):
        await until(lambda: not any(worker.running for worker in workers), STOPPED_WITHIN)
    kill_all(family)


def _started(stack: AsyncExitStack, peer: Peer, place: Place) -> Service:
    worker = peer.started_worker(place)
    stack.callback(worker.remove)
    return worker


async def _until(
    peer: Peer, place: Place, workers: list[Service], reached: Callable[[Ended], bool], timeout: float
) -> Ended:
    ended = Ended()

    async def check() -> bool:
        nonlocal ended
        for worker in workers:
            if not worker.running:
                raise Failed(f"{worker.name} exited with {worker.exit_code}:\n{worker.log(20)}")
        ended = await peer.ended(place)
        return reached(ended)

    def state() -> str:
        return f"the jobs of {peer.title}; {ended.jobs} have ended:\n{workers[0].log(20)}"

    await until(check, timeout, state, interval=LOOK_EVERY)
    return ended
