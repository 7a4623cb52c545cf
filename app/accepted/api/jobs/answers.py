"""How a job is answered with: its bytes, its ETag, and the headers that say where and when to look again."""

import hashlib
import math
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from accepted.domain import json_text
from accepted.domain.job import Job, Status, to_wire

JSON = "application/json"
_JSON = JSON.encode()

LONGEST_PAUSE = 3600
"""Seconds. A job that is due later than that may still be cancelled or retried sooner."""


HEADERS = {
    "Location": "the job",
    "Operation-Location": "the job, as RFC 9110 defines Location for 201 and 3xx only",
    "Link": 'the job, with rel="monitor"; of a list the next page, with rel="next"',
    "Retry-After": "seconds to wait before the next look, while the job is unfinished",
    "Idempotent-Replayed": "true when this key was seen before",
    "Preference-Applied": "the wait that was applied",
    "Vary": "Prefer, where the answer depends on it",
    "RateLimit-Policy": 'the tenant\'s quota, if it has one: "jobs";q=100;w=60 is 100 jobs in 60 seconds',
    "RateLimit": 'how that stands: "jobs";r=57;t=1 is 57 jobs now, and one more in 1 second',
    "ETag": "a strong validator of the representation",
    "Cache-Control": "private, no-cache: ask again, with If-None-Match",
}


_WIRE = {name: name.lower().encode() for name in HEADERS}
"""The names as they are sent."""


def header_docs(*names: str) -> dict[str, Any]:
    """These headers as an OpenAPI response lists them."""
    return {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names}


def body_and_etag(job: Job) -> tuple[bytes, str]:
    """The representation, and a strong validator made from nothing but its bytes."""
    body = json_text.encode(to_wire(job))
    return body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def monitor_headers(job: Job) -> dict[str, str]:
    """Where the job can be watched, and when a look may be worth while."""
    path = f"/jobs/{job.id}"
    headers = {"Location": path, "Operation-Location": path, "Link": f'<{path}>; rel="monitor"'}
    if not job.finished:
        headers["Retry-After"] = retry_after(job)
    return headers


def retry_after(job: Job) -> str:
    """Whole seconds until the job may have moved."""
    if job.status not in {Status.SCHEDULED, Status.RETRYING}:
        return "1"
    seconds = (job.run_at - datetime.now(UTC)).total_seconds()
    return str(min(max(math.ceil(seconds), 1), LONGEST_PAUSE))


class Answer(Response):
    """An answer whose headers are ready to be sent: Starlette's own works out again what is known here."""

    def __init__(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", _JSON),
            *[(_WIRE[name], value.encode("latin-1")) for name, value in headers.items()],
        ]


def matches(header: str | None, etag: str) -> bool:
    """If-None-Match by RFC 9110 section 13.1.2: a list or `*`, compared weakly."""
    if header is None:
        return False
    given = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in given or etag in given
