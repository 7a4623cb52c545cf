"""What a tenant has: the scopes of its API keys, and its quota and its share of the slots."""

import math
from collections.abc import Iterable

import msgspec

_ADMIN = ("webhooks:read", "webhooks:write", "queues:admin")
"""What `admin` includes, over what belongs to the key's own tenant. Its jobs have scopes of their own."""

OPERATOR_SCOPE = "operator"
"""The scope over what tenants share."""

SCOPES = ("jobs:read", "jobs:write", "jobs:work", *_ADMIN, "admin", OPERATOR_SCOPE)
"""What a key may be for (contract section 4, Auth)."""

DEFAULT_TENANT = "default"
"""The tenant of every caller when authentication is off."""


SHARED = ""
"""In place of a tenant: the owner of what all tenants share. No key is made for a tenant without a name."""

RESERVED = "accepted:"
"""What the names of tenants of our own begin with; no key is made for them."""


def granted(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes that a key with `scopes` has: with those that `admin` includes."""
    given = frozenset(scopes)
    return given.union(_ADMIN) if "admin" in given else given


class TenantShare(msgspec.Struct, frozen=True):
    """What a tenant has of the slots (`accepted.domain.turns`): a weight, and how many of its jobs may run at once."""

    weight: int = 1
    max_running: int | None = None


class TenantQuota(msgspec.Struct, frozen=True):
    """A token bucket of `jobs` that fills evenly in `per` seconds; `used` tokens are taken (docs/http.md).

    No more than `jobs` pass at once, and no more than `jobs` in every `per` seconds in the long run.
    """

    jobs: int
    per: float
    used: float

    @property
    def remaining(self) -> int:
        """Jobs that the tenant may submit now."""
        return max(math.floor(self._left), 0)

    @property
    def next_in(self) -> float:
        """Seconds until the tenant may submit one more."""
        return self.wait_for(self.remaining + 1)

    def wait_for(self, jobs: int) -> float:
        """Seconds until the tenant may submit `jobs` at once, or a full bucket of them if that is less."""
        return max(min(jobs, self.jobs) - self._left, 0.0) * self.per / self.jobs

    @property
    def _left(self) -> float:
        return self.jobs - self.used + 1e-9
