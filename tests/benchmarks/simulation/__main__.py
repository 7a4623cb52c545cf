"""`python -m tests.benchmarks.simulation`: measures what a job costs, drains real queues, and simulates more.

The costs are those of PostgreSQL's statements alone, and of workers and RabbitMQ in one real drain on each broker.
From these the simulation computes other drains; the real ones stand beside. Then come machines that are not here.
"""

import os
import sys
from dataclasses import replace

import uvloop

from tests.benchmarks.figures import Failed
from tests.benchmarks.simulation import costs, points
from tests.benchmarks.simulation.costs import LedgerCosts
from tests.benchmarks.simulation.points import Point
from tests.benchmarks.simulation.service import Cost, Costs, Drain
from tests.benchmarks.stage import stage

SET_BY = (2, 10)  # workers, slots: the default
COMPARED = ((1, 10), (1, 50), (1, 100))
ELSEWHERE = ((4, 16), (8, 32), (16, 64), (32, 128))  # cores of the ledger's machine, workers on others
PER_DAY = 86400
CORES = os.cpu_count() or 1


def main() -> int:
    """Measure, compute and print; the exit code."""
    try:
        uvloop.run(_run())
    except (Failed, AssertionError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    return 0


async def _run() -> None:
    async with stage() as built:
        ledger = await costs.measured(built.database_url)
        await built.forget()
        _say_costs(ledger)
        print("\n| broker | workers x slots | measured | simulated | |\n|---|---|---|---|---|")
        found = {}
        for broker in ("RabbitMQ", "PostgreSQL"):
            set_by = await points.drained(built, broker, *SET_BY)
            found[broker] = _costs(ledger, set_by)
            _compare(found[broker], set_by, "its costs are used")
            for workers, slots in COMPARED:
                _compare(found[broker], await points.drained(built, broker, workers, slots))
    _say_elsewhere(found, ledger)


def _costs(ledger: LedgerCosts, point: Point) -> Costs:
    """A worker's costs are not told apart by batch and job: what a batch costs it is next to nothing. What PostgreSQL
    does beside the statements, such as vacuum, is added to the outcome.
    """
    half = Cost(0.0, point.worker / 2)
    costs = Costs(half, half, ledger.claim, ledger.outcome, point.message, ledger.flush)
    statements = Drain(costs, CORES).run(points.JOBS, point.workers, point.slots)
    beside = max(point.ledger - statements.ledger / statements.rate, 0.0)
    return replace(costs, ledger_outcome=Cost(ledger.outcome.batch, ledger.outcome.job + beside))


def _compare(found: Costs, point: Point, more: str = "") -> None:
    rate = Drain(found, CORES).run(points.JOBS, point.workers, point.slots).rate
    ratio = f"{rate / point.rate:.2f}"
    print(
        f"| {point.broker} | {point.workers} x {point.slots} | {point.rate:,.0f}/s | {rate:,.0f}/s | "
        f"{ratio}{'; ' if more else ''}{more} |", flush=True,
    )  # fmt: skip


def _say_costs(ledger: LedgerCosts) -> None:
    print("| PostgreSQL, us of CPU | a batch | a job in it |\n|---|---|---|")
    for name in ("submission", "claim", "outcome"):
        cost = getattr(ledger, name)
        print(f"| {name} | {cost.batch * 1e6:,.0f} | {cost.job * 1e6:,.0f} |")
    print(f"\nWAL for a job: {ledger.wal:,.0f} bytes; a flush: {ledger.flush * 1e3:.2f} ms", flush=True)


def _say_elsewhere(found: dict[str, Costs], ledger: LedgerCosts) -> None:
    print("\n| the ledger's cores | workers elsewhere | jobs/s | its cores used | flushes/s | WAL, MB/s | a day |")
    print("|---|---|---|---|---|---|---|")
    for cores, workers in ELSEWHERE:
        done = Drain(found["PostgreSQL"], cores, apart=True).run(50_000 * workers, workers, 10)
        print(
            f"| {cores} | {workers} | {done.rate:,.0f} | {done.ledger:.1f} | {done.flushes:,.0f} | "
            f"{done.rate * ledger.wal / 1e6:,.0f} | {done.rate * PER_DAY / 1e6:,.0f} million |"
        )


if __name__ == "__main__":
    sys.exit(main())
