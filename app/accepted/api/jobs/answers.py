"""A job as an answer: its bytes, its ETag, and the headers that say where and when to look again."""

import hashlib
import math
from datetime import UTC, datetime

from accepted.domain import json_text
from accepted.domain.job import Job, Status, to_wire

LONGEST_PAUSE = 3600
"""Seconds. A job that is due later may still be cancelled or retried sooner."""


def body_and_etag(job: Job) -> tuple[bytes, str]:
    """The representation, and a strong validator that depends on its bytes alone."""
    body = json_text.encode(to_wire(job))
    return body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def monitor_headers(job: Job) -> dict[str, str]:
    """Where to watch the job, and when to look again."""
    path = f"/jobs/{job.id}"
    headers = {"Location": path, "Operation-Location": path, "Link": f'<{path}>; rel="monitor"'}
    if not job.finished:
        headers["Retry-After"] = retry_after(job)
    return headers


def retry_after(job: Job) -> str:
    """Whole seconds until the job may have changed."""
    if job.status not in {Status.SCHEDULED, Status.RETRYING}:
        return "1"
    seconds = (job.run_at - datetime.now(UTC)).total_seconds()
    return str(min(max(math.ceil(seconds), 1), LONGEST_PAUSE))
