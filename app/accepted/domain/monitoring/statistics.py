"""Statistics: what is counted, in which buckets times are counted, and the percentiles that these give."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from accepted.domain.failures import FailureClass

BOUNDS: tuple[float, ...] = tuple(0.005 * 2**power for power in range(24))
"""Seconds up to which each bucket counts, from 5 ms to 11.7 h; one more bucket has what is longer. A percentile is off
by less than its bucket is wide, a factor of two."""

OTHERS = "_other"
"""Stands for the values that have no series of their own. No queue and no type has this name."""

ALL = ("", "", "")
"""The series of all tenants, queues and types together."""

Series: TypeAlias = tuple[str, str, str]
"""Tenant, queue and type. The depth of a queue is in a series without a type."""

FAILED = {kind: f"failed_{kind}" for kind in FailureClass}
"""The column of each failure class."""

WAITS = tuple(f"wait_{number}" for number in range(len(BOUNDS) + 1))
RUNS = tuple(f"run_{number}" for number in range(len(BOUNDS) + 1))
"""The columns of the buckets."""

COUNTED = ("accepted", "started", "succeeded", "dead_letters", *FAILED.values(), *WAITS, *RUNS)
"""Columns that add up."""

LARGEST = ("depth", "oldest")
"""Columns of which a longer time has the largest value: jobs that were due, and seconds for which the oldest was."""


class Submitted(Protocol):
    """What a new job belongs to."""

    @property
    def tenant(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def type(self) -> str: ...


def total_of(tenant: str | None) -> Series:
    """The series of all queues and types of a tenant; None: of all tenants."""
    return tenant or "", "", ""


def by_series(jobs: Iterable[Submitted]) -> Counter[Series]:
    """How many of these jobs each series has."""
    return Counter((job.tenant, job.queue, job.type) for job in jobs)


def wait_column(seconds: float) -> str:
    return WAITS[bisect_left(BOUNDS, seconds)]


def run_column(seconds: float) -> str:
    return RUNS[bisect_left(BOUNDS, seconds)]


def percentile(counts: Sequence[int], share: float) -> float | None:
    """The seconds below which this share of the times lies, to three digits; None if there are none.

    Between the bounds of a bucket the times are taken to lie evenly on a logarithmic scale.
    """
    left = share * sum(counts)
    if not left:
        return None
    for bucket, count in enumerate(counts):
        if count >= left:
            return float(f"{_within(bucket, left / count):.3g}")
        left -= count
    return BOUNDS[-1]


def _within(bucket: int, share: float) -> float:
    if bucket == 0:
        return BOUNDS[0] * share
    if bucket == len(BOUNDS):
        return BOUNDS[-1]
    return BOUNDS[bucket - 1] * math.pow(2.0, share)
