"""`python -m tests.benchmarks.peers`: the same no-op jobs through Accepted and through its peers.

Each submits over HTTP, from one API process, to servers of our own. All peers take a turn in each round. Prints a
Markdown table of the medians and spreads, then the ratios beside their goals. Exits 0 whether or not the goals are
met, and 1 when a peer could not be measured.
"""

import argparse
import os
import subprocess
import sys
import time

import uvloop

from tests.benchmarks.figures import HEADER, Failed
from tests.benchmarks.peers import table
from tests.benchmarks.peers.catalogue import PEERS
from tests.benchmarks.peers.measuring import Figures, measured

JOBS = 20_000
ROUNDS = 2

FAILURES = (Failed, AssertionError, RuntimeError, subprocess.TimeoutExpired)
"""Of a peer or one of its servers. The others are measured all the same."""


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--peers",
        type=_names,
        default=list(PEERS),
        help=f"names or their beginnings, comma-separated, of {', '.join(PEERS)}",
    )
    parser.add_argument("--jobs", type=int, default=JOBS, help="of each turn; slow peers take a share of them")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    start = time.monotonic()
    try:
        found = uvloop.run(_measure(options.peers, options.jobs, options.rounds))
    except KeyboardInterrupt:
        return 130  # as a shell says it
    _report(found)
    load = os.getloadavg()[0]
    print(f"\n{time.monotonic() - start:.0f} s on {os.cpu_count()} cores; load average of the last minute {load:.1f}")
    return 0 if len(found) == len(options.peers) else 1


async def _measure(names: list[str], jobs: int, rounds: int) -> dict[str, list[Figures]]:
    """In each round, each peer in turn. One that could not be measured is left out from then on."""
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        for name in list(found):
            try:
                figures = await measured(PEERS[name], jobs)
            except FAILURES as error:
                print(f"not measured: {name}: {error}", file=sys.stderr, flush=True)
                del found[name]
                continue
            print(f"round {number + 1}: {table.line(name, [figures])}", file=sys.stderr, flush=True)
            found[name].append(figures)
    return found


def _report(found: dict[str, list[Figures]]) -> None:
    print(table.HEADER)
    for name, rounds in found.items():
        print(table.line(name, rounds))
    if rows := table.ratios(found):
        print()
        for row in (HEADER, *rows):
            print(row)


def _names(text: str) -> list[str]:
    found = {part: _matching(part) for part in text.split(",")}
    if unknown := [part for part, names in found.items() if not names]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(PEERS)}")
    return [name for name in PEERS if any(name in names for names in found.values())]


def _matching(part: str) -> list[str]:
    return [part] if part in PEERS else [name for name in PEERS if name.startswith(part)]


if __name__ == "__main__":
    sys.exit(main())
