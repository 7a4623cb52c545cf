"""The nemesis: faults as small named objects, and a schedule of them that a seed reproduces.

The first API, scheduler and worker are never killed, so that their memory can be watched from the beginning to the
end; everything else that happens to the others happens to them too.
"""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.faults import effects
from tests.faults.checker import Ledger
from tests.faults.cluster import Cluster
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.processes import Service

QUIET = (1.0, 5.0)  # seconds between the end of one fault and the next
BRIEF = (0.2, 3.0)
A_WHILE = (3.0, 8.0)  # longer than every deadline on the way, and longer than a lease
QUEUE = f"accepted.q.{effects.QUEUE}"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'accepted'"

Act = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Fault:
    """`inject`, wait for a time between the two of `lasts`, `heal`."""

    name: str
    lasts: tuple[float, float]
    inject: Act
    heal: Act


@dataclass(frozen=True)
class Stage:
    """All that the nemesis may lay hands on."""

    cluster: Cluster
    postgres: PostgresServer
    broker: RabbitMQNode
    vhost: str
    ledger: Ledger
    proxies: dict[str, Proxy]


def arsenal(stage: Stage) -> list[Fault]:
    """Every fault, in an order that does not change: a seed means the same schedule on every run."""
    return [*_processes(stage.cluster), *_links(stage.proxies), *_postgres(stage), *_broker(stage)]


async def haunt(faults: list[Fault], seed: int, seconds: float, say: Callable[[str], None]) -> list[str]:
    """One fault after another for so long; their names. Whatever was injected is healed."""
    choice = random.Random(seed)
    begun = time.monotonic()
    made = []
    while time.monotonic() - begun < seconds:
        fault, lasts, quiet = choice.choice(faults), choice.random(), choice.uniform(*QUIET)
        await asyncio.sleep(quiet)
        lasts = fault.lasts[0] + lasts * (fault.lasts[1] - fault.lasts[0])
        say(f"{time.monotonic() - begun:6.1f} s  {fault.name}, for {lasts:.1f} s")
        try:
            await fault.inject()
            await asyncio.sleep(lasts)
        finally:
            await fault.heal()
        made.append(fault.name)
    return made


def _processes(cluster: Cluster) -> Iterator[Fault]:
    mortal = {"api": cluster.apis[1:], "scheduler": cluster.schedulers[1:], "worker": cluster.workers[1:]}
    for role, services in mortal.items():
        for number, service in enumerate(services, 1):
            yield Fault(f"{role} {number} killed", BRIEF, _apart(service.kill), _apart(service.start))
            yield Fault(f"{role} {number} told to stop", BRIEF, _stop(service), _apart(service.start))
    everyone = {"api": cluster.apis, "scheduler": cluster.schedulers, "worker": cluster.workers}
    for role, services in everyone.items():
        for number, service in enumerate(services):
            yield Fault(
                f"{role} {number} stopped (SIGSTOP)", A_WHILE,
                _here(lambda one=service: one.signal(signal.SIGSTOP)),
                _here(lambda one=service: one.signal(signal.SIGCONT)),
            )  # fmt: skip


def _links(proxies: dict[str, Proxy]) -> Iterator[Fault]:
    for link, proxy in proxies.items():
        yield Fault(f"{link} cut", BRIEF, _here(proxy.cut), proxy.heal)
        yield Fault(f"{link} black hole", A_WHILE, _here(proxy.blackhole), proxy.heal)
        for direction in _directions():
            yield Fault(
                f"{link} black hole {direction} only", A_WHILE,
                _here(lambda one=proxy, way=direction: one.blackhole(way)), proxy.heal,
            )  # fmt: skip
        yield Fault(f"{link} slow", A_WHILE, _here(lambda one=proxy: one.delay(0.2)), proxy.heal)
        yield Fault(f"{link} in slices", A_WHILE, _here(lambda one=proxy: one.slice(11)), proxy.heal)


def _directions() -> tuple[Literal["up", "down"], ...]:
    return "up", "down"


def _postgres(stage: Stage) -> Iterator[Fault]:
    postgres, ledger = stage.postgres, stage.ledger
    start = _apart(postgres.start)
    yield Fault("PostgreSQL killed", BRIEF, _apart(postgres.kill), start)
    yield Fault("PostgreSQL stopped fast", BRIEF, _apart(lambda: postgres.stop("fast")), start)
    yield Fault("PostgreSQL stopped at once", BRIEF, _apart(lambda: postgres.stop("immediate")), start)
    yield Fault("PostgreSQL connections terminated", BRIEF, lambda: ledger.execute(TERMINATE), _here(lambda: None))
    yield Fault("jobs locked for 2 s", BRIEF, lambda: ledger.execute(_LOCK), _here(lambda: None))


_LOCK = "DO 'BEGIN LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE; PERFORM pg_sleep(2); END'"


def _broker(stage: Stage) -> Iterator[Fault]:
    broker, vhost = stage.broker, stage.vhost
    done = _here(lambda: None)
    yield Fault("broker killed", BRIEF, _apart(broker.kill), _apart(broker.start))
    yield Fault("broker stopped in order", BRIEF, _apart(broker.stop), _apart(broker.start))
    yield Fault("broker connections closed", BRIEF, _apart(broker.close_connections), done)
    yield Fault("queue purged", BRIEF, _apart(lambda: broker.purge(QUEUE, vhost)), done)
    yield Fault("queue deleted", BRIEF, _apart(lambda: broker.delete_queue(QUEUE, vhost)), done)
    for alarm, turn in (("memory", broker.set_memory_alarm), ("disk", broker.set_disk_alarm)):
        yield Fault(
            f"broker's {alarm} alarm", A_WHILE,
            _apart(lambda turn=turn: turn(True)), _apart(lambda turn=turn: turn(False)),
        )  # fmt: skip


def _here(act: Callable[[], object]) -> Act:
    async def run() -> None:
        act()

    return run


def _apart(act: Callable[[], object]) -> Act:
    """In a thread: it takes its time, and the clients and proxies are to go on."""
    return lambda: asyncio.to_thread(act)


def _stop(service: Service) -> Act:
    async def run() -> None:
        assert await service.terminate(30) == 0, service.log()

    return run
