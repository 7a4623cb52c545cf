"""The operations on batches and workflows, as steps, and the jobs of a workflow that is being written."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from accepted.client import bodies
from accepted.client.errors import WaitTimeout
from accepted.client.exchange import Limits, acted, ask, body_of, exchange, retry_after, submitted
from accepted.client.fields import BatchFields
from accepted.client.jobs import Document
from accepted.client.options import JobKind, JobOptions
from accepted.client.steps import ApiRequest, Pause, Steps

MOST_AS_JSON = 10_000
LARGEST_JSON = 4 * 1024 * 1024
"""Jobs and bytes of one JSON body. A larger batch is sent as NDJSON, which has no such limits."""

JOBS_A_SECOND = 2000
"""The least that a service takes in: a larger batch may take longer than the timeout."""

LONGEST_PAUSE = 5.0
"""Seconds between two looks at a batch that is waited for."""

LONGEST_REF = 60
"""Characters of a ref that is made from the name of a type."""


class WorkflowJobs:
    """The jobs of a workflow. `add` names each by a ref, under which later jobs depend on it and find its result."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}

    def add(
        self,
        type: JobKind,
        payload: Any = None,
        *,
        ref: str | None = None,
        after: Iterable[str] = (),
        **options: Unpack[JobOptions],
    ) -> str:
        """Add a job that runs when those with the refs `after` have succeeded. Returns its ref: by default the name of
        its type, with a number if that is taken. Raises `ValueError` for a `ref` that is taken."""
        if ref in self.documents:
            raise ValueError(f"ref {ref!r} is that of another job")
        document = bodies.job(type, payload, options)
        ref = ref or self._free(document["type"][:LONGEST_REF])
        self.documents[ref] = document | {"ref": ref, "depends_on": list(after)}
        return ref

    def _free(self, name: str) -> str:
        ref, number = name, 1
        while ref in self.documents:
            number += 1
            ref = f"{name}-{number}"
        return ref


def submit(limits: Limits, members: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Steps[Document]:
    """Raises what a submission of a job raises."""
    jobs = [bodies.given(one) | {"type": bodies.type_name(one["type"])} for one in members]
    key, rest = _split(options)
    content = bodies.encode({**rest, "jobs": jobs}) if len(jobs) <= MOST_AS_JSON else b""
    if 0 < len(content) <= LARGEST_JSON:
        return submitted(ApiRequest("POST", "/batches", headers=bodies.keyed(key), content=content), limits)
    headers = bodies.keyed(key) | {"Content-Type": "application/x-ndjson"}
    lines = b"\n".join(map(bodies.encode, jobs))
    patience = len(jobs) / JOBS_A_SECOND
    return submitted(ApiRequest("POST", "/batches", bodies.query(rest), headers, lines, patience), limits)


def submit_workflow(limits: Limits, workflow: WorkflowJobs, options: Mapping[str, Any]) -> Steps[Document]:
    key, rest = _split(options)
    content = bodies.encode({**rest, "jobs": list(workflow.documents.values())})
    return submitted(ApiRequest("POST", "/workflows", headers=bodies.keyed(key), content=content), limits)


def get(limits: Limits, batch_id: str) -> Steps[Document]:
    return ask(ApiRequest("GET", path_of(batch_id)), limits)


def cancel(limits: Limits, batch_id: str) -> Steps[Document]:
    """Raises `ConflictingState` for a batch that has finished otherwise."""
    request = ApiRequest("POST", f"{path_of(batch_id)}/cancel", idempotent=True)
    return acted(request, limits, path_of(batch_id), lambda batch: "cancelled" in batch["counts"])


def wait(limits: Limits, batch: BatchFields, timeout: float | None) -> Steps[None]:
    """Until all its jobs have finished. Raises `WaitTimeout`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not batch.finished:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        answer = yield from exchange(ApiRequest("GET", path_of(batch.id)), limits, left)
        batch.take(body_of(answer))
        if timeout is not None and left == 0 and not batch.finished:
            raise WaitTimeout(batch, timeout)
        if not batch.finished:
            pause = min(retry_after(answer) or 1.0, LONGEST_PAUSE)
            yield Pause(pause if left is None else min(pause, left))


def path_of(batch_id: str) -> str:
    return f"/batches/{bodies.segment(batch_id)}"


def _split(options: Mapping[str, Any]) -> tuple[str | None, Document]:
    """The idempotency key, and the other options that are given."""
    rest = bodies.given(options)
    return rest.pop("idempotency_key", None), rest
