"""How a tenant's quota is told: the fields of the IETF draft httpapi-ratelimit-headers (September 2025)."""

import math

from accepted.domain.quota import Standing

POLICY = '"jobs"'
"""The name of the one policy there is."""

RATE_LIMIT = ("RateLimit-Policy", "RateLimit")


def rate_limit_headers(standing: Standing) -> dict[str, str]:
    """What every answer to a submission of a tenant with a quota has."""
    return {
        "RateLimit-Policy": f"{POLICY};q={standing.jobs};w={math.ceil(standing.per)}",
        "RateLimit": f"{POLICY};r={standing.remaining};t={math.ceil(standing.next_in)}",
    }
