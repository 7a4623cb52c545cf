"""What was measured of a queue, and what follows from it by Little's law: L = arrival rate x time each takes."""

import math

import msgspec

BUSY = 0.8
"""The part of its slots that a queue should keep busy on average. The rest is for what comes unevenly: near 1 the waits
grow without bound, whatever the mean."""

DRAIN_WITHIN = 300.0
"""Seconds in which the advised slots would also work off what waits now, unless another time is asked for."""


class Measured(msgspec.Struct, frozen=True):
    """Of the last `span` seconds: jobs a second that came due and attempts a second that ended.

    `mean_run_time` is in seconds and of attempts, however they ended. None: not measured. What comes due again, a
    retry, counts again, for it needs a slot again.
    """

    span: float | None = None
    rate_in: float | None = None
    rate_out: float | None = None
    mean_run_time: float | None = None


class Sizing(msgspec.Struct, frozen=True):
    """How many slots a queue needs; None where that cannot be said yet. `detail` says what it rests on."""

    slots_at_least: int | None
    slots_advised: int | None
    detail: str


def size(measured: Measured, backlog: int, drain_within: float = DRAIN_WITHIN) -> Sizing:
    """`slots_at_least` keeps up with what comes; `slots_advised` adds headroom, and drains `backlog` in that time."""
    rate, each = measured.rate_in, measured.mean_run_time
    if measured.span is None or rate is None:
        return Sizing(None, None, "Nothing was measured yet: a scheduler has to look at the queue twice, 5 s apart.")
    if each is None and (rate > 0 or backlog > 0):
        return Sizing(None, None, "No attempt has ended within the last hour, so nobody knows how long one takes.")
    each = each or 0.0
    busy = rate * each
    draining = backlog * each / drain_within
    at_least = _whole(busy, rate > 0)
    advised = max(_whole(busy / BUSY + draining, rate > 0 or backlog > 0), at_least)
    return Sizing(
        at_least,
        advised,
        f"{rate:.3g} jobs/s came, each ran {each:.3g} s, over {measured.span:.0f} s: {busy:.3g} slots busy on average. "
        f"Advised: at most {BUSY:.0%} busy, and {backlog} waiting jobs worked off within {drain_within:g} s.",
    )


def _whole(slots: float, any_work: bool) -> int:
    return max(math.ceil(slots - 1e-9), 1 if any_work else 0)
