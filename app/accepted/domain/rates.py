"""Rates: what was measured of a queue, the slots that it needs, and how its rate limit is kept."""

import math

import msgspec

BUSY = 0.8
"""The share of its slots that a queue should keep busy on average. The rest absorbs bursts: near 1 the waits grow
without bound, whatever the mean."""

DRAIN_WITHIN = 300.0
"""Seconds in which the advised slots also work off the backlog, unless the request names another time."""

CATCH_UP = 0.25
"""Seconds of a rate that the limiter may make up for when it was late. More would be a burst after every idle time;
less would lose starts whenever a process is slow: a hundredth of a minute is 0.6 s."""


class Measured(msgspec.Struct, frozen=True):
    """What was measured of a queue over the last `span` seconds. None: not measured.

    `rate_in` counts jobs that came due and `rate_out` attempts that ended, both per second; a retry counts again,
    because it needs a slot again. `mean_run_time` is in seconds, over attempts of any outcome.
    """

    span: float | None = None
    rate_in: float | None = None
    rate_out: float | None = None
    mean_run_time: float | None = None


class Sizing(msgspec.Struct, frozen=True):
    """How many slots a queue needs; None where nothing was measured yet. `detail` says what it is based on."""

    slots_at_least: int | None
    slots_advised: int | None
    detail: str


def size(measured: Measured, backlog: int, drain_within: float = DRAIN_WITHIN) -> Sizing:
    """Little's law: busy slots = arrival rate x mean run time.

    `slots_at_least` keeps up with what comes; `slots_advised` adds headroom and drains `backlog` in `drain_within`
    seconds.
    """
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


class Pace(msgspec.Struct, frozen=True):
    """A rate limit of one start every `interval` seconds (the generic cell rate algorithm)."""

    interval: float

    def ready(self, since: float | None) -> float:
        """When the next start is due, in seconds from now; until then none is allowed.

        `since` is how many seconds ago the last start counts; None before the first. That moment holds under every
        rate, so a rate that was changed or removed leaves nothing behind. A negative `since` counts as now: the clock
        was set back, and the caller stores now in its place.
        """
        return 0.0 if since is None else max(self.interval - max(since, 0.0), -CATCH_UP)

    def allowed(self, ready: float, admitted: int) -> int:
        """How many more jobs may be admitted now, with `admitted` jobs admitted and not started.

        Admitted jobs can all start at once, so there may be no more of them than `CATCH_UP` allows.
        """
        now = 0 if ready > 0 else int(-ready / self.interval) + 1
        return max(min(now, int(CATCH_UP / self.interval) + 1 - admitted), 0)

    def counts(self, ready: float, started: int) -> float:
        """When the last of `started` starts counts, in seconds from now: never above 0.

        Starts count one interval apart from `ready` on, so that a late limiter makes up for what it missed.
        """
        return min(ready + (started - 1) * self.interval, 0.0)
