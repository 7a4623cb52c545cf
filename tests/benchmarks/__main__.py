"""`python -m tests.benchmarks`: every figure of the service in one run, each beside its goal.

Rates are ratios: our process and a bare one take turns (A/B/A/B), and the median of the rounds' ratios counts, with
the smallest and the largest beside it. Exits 0 whether or not the goals are met: it measures; it exits 1 when it
could not.
"""

import argparse
import os
import sys
import time

import uvloop

from tests.benchmarks import draining, quiet, starts, submissions, uploads
from tests.benchmarks.figures import HEADER, Failed, Row
from tests.benchmarks.stage import stage

PARTS = ("submit", "broker", "worker", "latency", "idle", "lines", "starts")


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", type=_parts, default=set(PARTS), help=f"comma-separated, of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=4, help="of submit; broker and worker take half of it")
    options = parser.parse_args()
    start = time.monotonic()
    _say(HEADER)
    try:
        uvloop.run(_measure(options.only, options.rounds))
    except (Failed, AssertionError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    load = os.getloadavg()[0]
    print(f"\n{time.monotonic() - start:.0f} s on {os.cpu_count()} cores; load average of the last minute {load:.1f}")
    return 0


async def _measure(only: set[str], rounds: int) -> None:
    fewer = max(rounds // 2, 1)
    async with stage() as built:
        if "submit" in only:
            _say(*await submissions.accepted(built, rounds))
        if "broker" in only:
            _say(*await submissions.on_the_broker(built, fewer))
        if "worker" in only:
            _say(*await draining.drained(built, fewer))
        if only & {"latency", "idle"}:
            _say(*await quiet.measured(built, latency="latency" in only, idle="idle" in only))
        if "lines" in only:
            _say(*await uploads.uploaded(built))
        if "starts" in only:
            _say(*await starts.started(built, rounds))


def _say(*rows: Row) -> None:
    for row in rows:
        print(row, flush=True)


def _parts(text: str) -> set[str]:
    names = {name.strip() for name in text.split(",")}
    if unknown := names - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: none of {', '.join(PARTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
