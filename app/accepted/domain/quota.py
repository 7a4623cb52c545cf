"""How many jobs a tenant may submit in a time: a bucket of tokens that fills evenly (docs/http.md)."""

import math

import msgspec


class Standing(msgspec.Struct, frozen=True):
    """A quota of `jobs` in `per` seconds, of which `used` is taken and comes back at that rate.

    So no more than `jobs` pass at once, and no more than `jobs` in every `per` seconds in the long run.
    """

    jobs: int
    per: float
    used: float

    @property
    def remaining(self) -> int:
        """Jobs that may be submitted now."""
        return max(math.floor(self._left), 0)

    @property
    def next_in(self) -> float:
        """Seconds until one more may be."""
        return self.wait_for(self.remaining + 1)

    def wait_for(self, jobs: int) -> float:
        """Seconds until so many may be submitted at once, or all that ever may, if that is less."""
        return max(min(jobs, self.jobs) - self._left, 0.0) * self.per / self.jobs

    @property
    def _left(self) -> float:
        return self.jobs - self.used + 1e-9
