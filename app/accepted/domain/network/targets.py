"""When calls to a host are deferred, and for how long: the rules of its circuit breaker (docs/waiting.md).

A host is closed (called as usual), open (deferred until a moment) or half open (that moment has come, and one job is
let through to try). It opens at once for as long as it asks for by `Retry-After`, or after a run of failures.
"""

from accepted.domain.failures import FailureClass

RUN = 5
"""Failures in a row, of all workers together, after which a host is deferred."""

FIRST = 5.0
LONGEST = 300.0
"""Seconds for which a run of failures defers a host: `FIRST`, doubled by each failed try, at most `LONGEST`. A host
that was restarted is tried again at once; one that is gone for the day costs a call every five minutes."""

JITTER = 0.2
"""Share of it that is added at random, so that hosts which failed together are not tried together."""

ABREAST = 10.0
FARTHEST = 1800.0
"""Seconds by which each further job that one worker defers comes after the one before, at most `FARTHEST` in all. The
first comes when the host may be tried, and tries it. The others are brought forward once it answers, so they need not
poll: while it does not, a host costs a worker one claim in ten seconds, however many jobs wait for it."""

RAMP = 2.0
AT_FIRST = 20
"""Once a host answers, what waited for it runs: `AT_FIRST` jobs in the first `RAMP` seconds, and twice as fast in
every `RAMP` after: no stampede for a host that has just come back, and 10,000 jobs in 20 s if it bears them."""

AGAINST = frozenset({FailureClass.TRANSIENT, FailureClass.TIMEOUT, FailureClass.RATE_LIMITED})
"""Classes that speak against the host. Any other end says that it answers."""


def why(host: str, reason: str, failures: int) -> str:
    """The error message of a deferred attempt."""
    if reason == FailureClass.RATE_LIMITED and failures < RUN:
        return f"deferred for {host}: it asked for a pause (Retry-After)"
    return f"deferred for {host}: its last {failures} calls have failed"
