"""How long a failed job waits, as contract sections 4 and 5 have it: wait k is schedule[k] * (1 + U(0, jitter))."""

import msgspec

DEFAULT_SCHEDULE = (30.0, 300.0, 1800.0, 7200.0)
"""Seconds. With the first run at once, five attempts spread over some two and a half hours."""

MAX_RETRY_AFTER = 24 * 3600.0
"""Seconds. A target that asks for more than a day is not obeyed."""


class Retry(msgspec.Struct, frozen=True):
    """A retry policy. `schedule` is in seconds and its last entry repeats; `jitter` is a share of the wait."""

    max_attempts: int = 5
    schedule: tuple[float, ...] = DEFAULT_SCHEDULE
    jitter: float = 0.2

    def wait(self, failures: int, chance: float, retry_after: float | None = None) -> float:
        """Seconds to wait after the `failures`-th failure of a budget (from 1); `chance` is uniform in [0, 1).

        A `retry_after` is a floor: jitter only ever adds to it, so that nobody returns early or in step.
        """
        base = self.schedule[min(failures, len(self.schedule)) - 1] if self.schedule else 0.0
        floor = min(retry_after or 0.0, MAX_RETRY_AFTER)
        return max(base, floor) * (1 + chance * self.jitter)


WEBHOOK_RETRY = Retry(
    max_attempts=10,
    schedule=(5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0),
    jitter=0.1,
)
"""The Standard Webhooks schedule, in seconds: some 75 hours in all."""
