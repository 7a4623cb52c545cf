"""`python -m tests.benchmarks.steady`: a service that goes on while something is in its way.

A transaction that is held open, thousands of clients that wait, a receiver that never answers; and an hour with a short
retention.

Prints the Markdown table for docs/benchmarks.md. Exits 0 whether or not the goals are met, and 1 when it could not
measure.
"""

import argparse
import os
import sys
import time

import uvloop

from tests.benchmarks.figures import Failed, Row
from tests.benchmarks.stage import stage
from tests.benchmarks.steady import deliveries, disk, held, watchers

PARTS = ("watchers", "webhooks", "held", "disk")


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.steady", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated, of {','.join(PARTS)}")
    parser.add_argument("--minutes", type=int, default=10, help="of the held transaction, and a sixth of those of disk")
    parser.add_argument("--clients", type=int, default=5000, help="that wait by each of two ways")
    options = parser.parse_args()
    only = set(options.only.split(","))
    if unknown := only - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(PARTS)}")
    start = time.monotonic()
    try:
        rows = uvloop.run(_measure(only, options.minutes, options.clients))
    except (Failed, AssertionError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    print("\n| what | figure | goal | |\n|---|---|---|---|")
    print("\n".join(row.markdown for row in rows))
    load = os.getloadavg()[0]
    print(f"\n{time.monotonic() - start:.0f} s on {os.cpu_count()} cores; load average of the last minute {load:.1f}")
    return 0


async def _measure(only: set[str], minutes: int, clients: int) -> list[Row]:
    rows = []
    async with stage() as built:
        if "watchers" in only:
            rows += await watchers.measured(built, clients)
        if "webhooks" in only:
            rows += await deliveries.measured(built)
        if "held" in only:
            rows += await held.measured(built, minutes)
        if "disk" in only:
            rows += await disk.measured(built, minutes * 6)
    return rows


if __name__ == "__main__":
    sys.exit(main())
