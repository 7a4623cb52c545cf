"""When calls to a host are deferred, and for how long: the rules of its circuit breaker (docs/waiting.md). And how many
deliveries a receiver gets at once.

A host is closed (called as usual), open (deferred until a moment) or half open (that moment has come, and one job tries
it). It opens for as long as it asks for by `Retry-After`, or after some failures in a row.
"""

from accepted.domain.failures import FailureClass
from accepted.domain.job import WEBHOOK_TYPE
from accepted.domain.network.urls import ANYWHERE, parse_target

CALLING = frozenset({"http.request", WEBHOOK_TYPE})
"""Types whose payload has the `url` that they call."""

RUN = 5
"""Failures in a row, over all workers, after which a host is deferred."""

FIRST = 5.0
LONGEST = 300.0
"""Seconds for which failures defer a host: `FIRST`, doubled by each failed try, at most `LONGEST`. A host that restarts
is tried again soon; one that is away for the day costs a call every five minutes."""

JITTER = 0.2
"""Share of that time that is added at random, so that hosts that failed together are not tried together."""

ABREAST = 10.0
FARTHEST = 1800.0
"""Seconds between the due times of the jobs that one worker defers, and the most in all. The first job comes due when
the host may be tried, and tries it. The others are brought forward once it answers, so they need not poll: a host that
is away costs a worker one claim in ten seconds, however many jobs wait for it."""

RAMP = 2.0
AT_FIRST = 20
"""Once a host answers, `AT_FIRST` waiting jobs run in the first `RAMP` seconds, and twice as many in each `RAMP` after.
So a host that has just come back is not overrun, and 10,000 jobs take 20 s if it can serve them."""

BUDGET = 60.0
"""Seconds of answering that a receiver of webhooks may have under way at once. It gets as many deliveries at a time as
`BUDGET` divided by the seconds that it takes for one: 10 if it takes 6 s."""

LEAST_AT_ONCE = 5
MOST_AT_ONCE = 100
"""Bounds of that. A worker has 200 slots for deliveries: no receiver has more than half of one worker's."""

UNKNOWN = 6.0
"""Seconds that a receiver is taken to need until it has answered once."""

AGAINST = frozenset({FailureClass.TRANSIENT, FailureClass.TIMEOUT, FailureClass.RATE_LIMITED})
"""Classes that count as failures of the host. Any other outcome means that it answers."""


def key_of(url: str) -> str:
    """The host of `url` with its port: the name of its row in the ledger. Raises `UrlRefused`."""
    target = parse_target(url, ANYWHERE)
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}"


def trouble(reason: str, failures: int) -> str:
    """Why a host is deferred, for people."""
    if reason == FailureClass.RATE_LIMITED and failures < RUN:
        return "it asked for a pause (Retry-After)"
    return f"its last {failures} calls have failed"


def why(host: str, reason: str, failures: int) -> str:
    """The error message of a deferred attempt."""
    return f"deferred for {host}: {trouble(reason, failures)}"
