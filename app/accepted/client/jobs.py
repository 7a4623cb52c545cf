"""The operations on jobs, as steps."""

import time
from collections.abc import Mapping
from typing import Any, TypeVar

from accepted.client import bodies
from accepted.client.errors import JobFailed, WaitTimeout
from accepted.client.exchange import Limits, acted, ask, body_of, look, submitted
from accepted.client.fields import JobFields
from accepted.client.options import JobKind
from accepted.client.steps import ApiRequest, Found, Pause, Steps

LONG_POLL = 30
"""Seconds that one request waits for a change."""

BETWEEN_LOOKS = 0.2
"""Seconds, in the last second of a wait: a long poll takes whole seconds."""

PAGE = 200
"""Jobs of one answer."""

Document = dict[str, Any]
AnyJob = TypeVar("AnyJob", bound=JobFields)


def submit(limits: Limits, kind: JobKind, payload: Any, options: Mapping[str, Any]) -> Steps[Document]:
    """Raises `RequestProblem` and `ServiceUnreachable`, as all that follows."""
    rest = dict(options)
    headers = bodies.keyed(rest.pop("idempotency_key", None))
    content = bodies.encode(bodies.job(kind, payload, rest))
    return submitted(ApiRequest("POST", "/jobs", headers=headers, content=content), limits)


def get(limits: Limits, job_id: str) -> Steps[Document]:
    return ask(ApiRequest("GET", path_of(job_id)), limits)


def cancel(limits: Limits, job_id: str) -> Steps[Document]:
    """Raises `ConflictingState` for a job that has finished otherwise."""
    request = ApiRequest("POST", f"{path_of(job_id)}/cancel", idempotent=True)
    return acted(request, limits, path_of(job_id), lambda job: bool(job["status"] == "cancelled"))


def retry(limits: Limits, job_id: str) -> Steps[Document]:
    """Runs it again once, however often the request arrives, because it says which state of the job it means.

    Raises `ConflictingState` for a job that cannot be retried.
    """
    path = path_of(job_id)
    seen = yield from look(path, limits)
    etag = seen.headers.get("etag") if seen else None  # a proxy may have taken it away
    if seen is None or etag is None:
        return (yield from ask(ApiRequest("POST", f"{path}/retry"), limits))
    before = body_of(seen)
    request = ApiRequest("POST", f"{path}/retry", headers={"If-Match": etag}, idempotent=True)
    return (yield from acted(request, limits, path, lambda job: job != before))


def wait(limits: Limits, job: JobFields, timeout: float | None) -> Steps[None]:
    """Until the job has finished. Raises `WaitTimeout`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not job.finished:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        seconds = LONG_POLL if left is None else min(int(left), LONG_POLL)
        request = ApiRequest("GET", path_of(job.id), {"wait": seconds}, patience=seconds)
        job.take((yield from ask(request, limits, left)))
        if timeout is not None and left == 0 and not job.finished:
            raise WaitTimeout(job, timeout)
        if seconds == 0 and not job.finished:
            yield Pause(min(BETWEEN_LOOKS, left or 0.0))


def succeeded(job: AnyJob) -> AnyJob:
    """The finished job itself. Raises `JobFailed` unless it has succeeded."""
    if job.status != "succeeded":
        raise JobFailed(job)
    return job


def search(limits: Limits, filters: Mapping[str, Any]) -> Steps[None]:
    """Finds each job, page after page."""
    query = bodies.query(filters)
    cursor: str | None = ""
    while cursor is not None:
        more = {"limit": PAGE} | ({"cursor": cursor} if cursor else {})
        page = yield from ask(ApiRequest("GET", "/jobs", query | more), limits)
        for document in page["items"]:
            yield Found(document)
        cursor = page["next"]


def webhook_secrets(limits: Limits) -> Steps[list[str]]:
    """The newest first."""
    found = yield from ask(ApiRequest("GET", "/webhook-secret"), limits)
    return [found["secret"], *found["previous"]]


def path_of(job_id: str) -> str:
    return f"/jobs/{bodies.segment(job_id)}"
