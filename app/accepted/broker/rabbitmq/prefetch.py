"""How many messages a worker may hold without an ack: as many as it has slots, and more while its jobs are short."""

import time

AHEAD = 400
"""Messages beyond the slots: some that wait for a claim, some claimed and some whose outcome is being committed."""

AHEAD_SECONDS = 5.0
"""Seconds for which they are allowed after the last request for twice as many messages as slots."""

HOLD = 1.0
"""Seconds that a message may wait for a slot before it goes back to the broker; and for which slots may stay free
while messages are fetched one by one. Then all queues are consumed again."""

HOLD_AHEAD = 0.1
"""The same with `AHEAD`: the jobs became long, and other workers may be free."""

MOST = 65535  # what AMQP can say


class Prefetch:
    """The prefetch of a worker's consumers, which have it from the moment when they are made."""

    def __init__(self, slots: int) -> None:
        self._slots = min(slots, MOST)
        self._ahead_until = 0.0
        self.ahead = False

    @property
    def outdated(self) -> bool:
        """Whether the consumers should have another."""
        return self.ahead != (time.monotonic() < self._ahead_until)

    @property
    def hold(self) -> float:
        """Seconds that a message may wait for a slot."""
        return HOLD_AHEAD if self.ahead else HOLD

    def asked_for(self, messages: int) -> None:
        """The worker asks for so many."""
        if messages >= 2 * self._slots:
            self._ahead_until = time.monotonic() + AHEAD_SECONDS

    def renewed(self) -> int:
        """The prefetch for the consumers that are made now."""
        self.ahead = time.monotonic() < self._ahead_until
        return min(self._slots + AHEAD * self.ahead, MOST)

    def reset(self) -> None:
        """Back to the slots: the consumers are gone."""
        self.ahead, self._ahead_until = False, 0.0
