"""How a rate limit is kept exactly: the generic cell rate algorithm, with one moment as its only state."""

import msgspec

CATCH_UP = 0.25
"""Seconds of a rate that the limiter may catch up when it is late. More would be a burst after every idle time; less
would lose starts whenever a process is slow: a hundredth of a minute is 0.6 s."""


class Pace(msgspec.Struct, frozen=True):
    """One start every `interval` seconds."""

    interval: float

    def ready(self, next_start: float | None) -> float:
        """The moment that the next start counts as, in seconds from now; positive: nothing may start before it.

        `next_start` is the stored moment, in seconds from now. None: nothing has started yet. One that is further ahead
        than an interval was written under another rate, or by a clock that was set back.
        """
        return 0.0 if next_start is None else max(min(next_start, self.interval), -CATCH_UP)

    def allowed(self, ready: float, admitted: int) -> int:
        """How many may start now, when so many may have started and have not.

        Those will start all at once when somebody comes for them, so they must be no more than may be made up for.
        """
        now = 0 if ready > 0 else int(-ready / self.interval) + 1
        return max(min(now, int(CATCH_UP / self.interval) + 1 - admitted), 0)

    def after(self, ready: float, started: int) -> float:
        """The next start, in seconds from now, when so many have just started."""
        return ready + started * self.interval
