"""Shared by answers: the media type, the headers and their OpenAPI texts, ETags."""

import math
from typing import Any

from starlette.responses import Response

from accepted.domain.tenants import TenantQuota

JSON = "application/json"
_JSON = JSON.encode()

RATE_LIMIT = ("RateLimit-Policy", "RateLimit")
"""The fields of the IETF draft httpapi-ratelimit-headers (September 2025)."""

POLICY = '"jobs"'
"""The name of our only rate limit policy, a tenant's quota."""

HEADERS = {
    "Location": "the job",
    "Operation-Location": "the job; RFC 9110 defines Location for 201 and 3xx only",
    "Link": 'the job, with rel="monitor"; of a list the next page, with rel="next"',
    "Retry-After": "seconds to wait before the next request, while the job is unfinished",
    "Idempotent-Replayed": "true if this key was used before",
    "Preference-Applied": "the wait that was applied",
    "Vary": "Prefer, where the answer depends on it",
    "RateLimit-Policy": 'the tenant\'s quota, if it has one: "jobs";q=100;w=60 is 100 jobs in 60 seconds',
    "RateLimit": 'what is left of it: "jobs";r=57;t=1 is 57 jobs now, and one more in 1 second',
    "ETag": "a strong validator of the representation",
    "X-Request-ID": "the id of the request in the log: the caller's, or a new one",
    "Cache-Control": "private, no-cache: ask again, with If-None-Match",
}

_WIRE = {name: name.lower().encode() for name in HEADERS}
"""The names as they are sent."""


def header_docs(*names: str) -> dict[str, Any]:
    """These headers as an OpenAPI response lists them."""
    return {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names}


def quota_headers(quota: TenantQuota) -> dict[str, str]:
    """What every answer to a submission carries if the tenant has a quota."""
    return {
        "RateLimit-Policy": f"{POLICY};q={quota.jobs};w={math.ceil(quota.per)}",
        "RateLimit": f"{POLICY};r={quota.remaining};t={math.ceil(quota.next_in)}",
    }


def matches(field: str | None, etag: str) -> bool:
    """Whether If-None-Match, or If-Match, holds `etag`, by RFC 9110 section 13.1: a list or `*`, compared weakly."""
    if field is None:
        return False
    given = {part.strip().removeprefix("W/") for part in field.split(",")}
    return "*" in given or etag in given


class EncodedResponse(Response):
    """A JSON response from encoded bytes and known `HEADERS`. Starlette's `__init__` costs several times more."""

    def __init__(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", _JSON),
            *[(_WIRE[name], value.encode("latin-1")) for name, value in headers.items()],
        ]
