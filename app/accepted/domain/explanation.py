"""Why a job is where it is: one reason, in a sentence and as data (docs/waiting.md has the concepts).

Pure: `accepted.storage.jobs.explain` reads the `JobSnapshot`. The checks run in the order in which a job passes them.
So the reason is the first thing that holds the job, and what has to change for it to go on.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from accepted.domain.job import FINISHED, Status
from accepted.domain.monitoring import sentences
from accepted.domain.monitoring.sentences import at, count
from accepted.domain.snapshot import JobSnapshot, Needed, expected_start
from accepted.domain.turns import beside_others

RELAYED_WITHIN = timedelta(seconds=3)
"""After this time a due and unpublished job waits for the broker, or for a scheduler that does not run."""

TAKEN_AGAIN = timedelta(seconds=15)
"""After this time a relay has taken an unpublished job twice: it is there, and the broker has not confirmed the job."""


class Explanation(msgspec.Struct, frozen=True):
    """`reason` is a code for programs, `detail` a sentence for people, `data` the values in the sentence."""

    reason: str
    detail: str
    data: dict[str, Any]


def explain(job: JobSnapshot) -> Explanation:
    """The first reason that holds the job."""
    if job.status in FINISHED:
        return _finished(job)
    if job.status == Status.RUNNING:
        return _running(job)
    if job.status == Status.BLOCKED:
        return _blocked(job)
    return _moment(job) or _room(job) or _slot(job)


def unpublished(job: JobSnapshot) -> bool:
    """Whether it became due a while ago, and its reference is not with the broker."""
    waits = job.status not in FINISHED and job.status not in {Status.RUNNING, Status.BLOCKED}
    return waits and not job.published and not job.on_hold and job.now - _due_since(job) > RELAYED_WITHIN


def may_hang_on_broker(job: JobSnapshot) -> bool:
    """Whether the broker has to be asked: the job became due a while ago, and nothing in the ledger holds it."""
    if unpublished(job):
        return True
    if job.status in FINISHED or job.status in {Status.RUNNING, Status.BLOCKED} or not job.published or job.on_hold:
        return False
    late = job.now - _due_since(job) > RELAYED_WITHIN and job.capacity.busy < job.capacity.slots
    return late and _moment(job) is None and _room(job) is None


def wire(job: JobSnapshot) -> dict[str, Any]:
    """The JSON of `GET /jobs/{id}/explain`: flat, with `last_error` if the job had an error."""
    found = explain(job)
    body = {"id": job.id, "status": job.status, "reason": found.reason, "detail": found.detail, **found.data}
    return body if job.error is None else body | {"last_error": _error(job)}


def _finished(job: JobSnapshot) -> Explanation:
    said = f"It {_ENDED[Status(job.status)]} at {at(job.finished_at)}, after {count(job.attempt, 'attempt')}."
    if job.error is not None and job.status != Status.EXPIRED:
        said += f" {_said(job)}."
    return Explanation(job.status, said, {"finished_at": job.finished_at, "attempt": job.attempt})


def _running(job: JobSnapshot) -> Explanation:
    if job.holder is None:
        return Explanation("running", "A worker has it.", {"attempt": job.attempt})
    holder = job.holder
    data = {"worker": holder.worker, "since": holder.since, "attempt": job.attempt}
    where = f"attempt {job.attempt} of {job.max_attempts} on worker {holder.worker}, since {at(holder.since)}"
    if not holder.alive:
        heard = "is no longer known" if holder.heard_at is None else f"was last heard of at {at(holder.heard_at)}"
        said = f"It was running as {where}, but that worker {heard}. It will be given to another worker."
        return Explanation("worker_silent", said, data | {"heard_at": holder.heard_at})
    if holder.cancel_requested:
        return Explanation("cancelling", f"A client asked to cancel it; it ends when its handler stops: {where}.", data)
    return Explanation("running", f"It is running: {where}.", data)


def _blocked(job: JobSnapshot) -> Explanation:
    waits_for = [{"id": needed.id, "status": needed.status, "to": _to(needed)} for needed in job.needs]
    data: dict[str, Any] = {"waits_for": waits_for, "jobs": job.blockers}
    first = job.needs[0] if job.needs else None
    if first is None:
        return Explanation("waits_for_jobs", f"It waits for {count(job.blockers, 'other job')}.", data)
    others = f" and {count(job.blockers - 1, 'other')}" if job.blockers > 1 else ""
    name = f"job {first.id} ({first.status or 'gone'}){others}"
    if job.ordering_key is not None and not first.on_success:
        said = f'It waits for its turn under ordering key "{job.ordering_key}": for {name} to end.'
        return Explanation("ordering_key", said, data | {"ordering_key": job.ordering_key})
    return Explanation("waits_for_jobs", f"It waits for {name} to {_to(first)}.", data)


def _moment(job: JobSnapshot) -> Explanation | None:
    """Its time has not come, or the relay has not published it yet."""
    due = job.due_at or job.run_at
    later = job.status in {Status.SCHEDULED, Status.RETRYING} and due > job.now
    if (held := _target(job, due, later)) is not None:
        return held
    if later:
        data: dict[str, Any] = {"due_at": due}
        if job.status == Status.SCHEDULED:
            return Explanation("not_due", f"It is not due until {at(due)}.", data)
        data |= {"next_attempt": job.attempt + 1, "max_attempts": job.max_attempts}
        said = f"Attempt {job.attempt} of {job.max_attempts} failed. {_said(job)}. The next follows at {at(due)}."
        return Explanation("retry", said, data)
    return _publication(job, due) if unpublished(job) else None


def _target(job: JobSnapshot, due: datetime, later: bool) -> Explanation | None:
    """The host that it calls is held, unless its own moment comes later than that."""
    target = job.target
    if target is None or (job.deferred_for is None and later and (target.until is None or due >= target.until)):
        return None
    if target.until is None and not later:
        return None
    if target.until is None:
        said = f"It waits for {target.host}, which was held, and comes at {at(due)}, or as soon as the host answers"
    else:
        said = sentences.held(target.host, target.until, target.why)
    if target.waiting:
        said += f". {sentences.waiting(target.waiting)} for it"
    data = {"target": target.host, "deferred_until": target.until, "waiting": target.waiting}
    return Explanation("target_held", f"{said}.", data | ({"due_at": due} if later else {}))


def _publication(job: JobSnapshot, due: datetime) -> Explanation | None:
    """The broker is away, or no scheduler runs. A relay that runs moves `due` ahead each time it takes the job."""
    since = _due_since(job)
    known = {"since": since, "due_at": since}
    if job.broker not in {None, "ok"}:
        said = f"It is due since {at(since)}, and cannot be published: the broker does not answer."
        return Explanation("broker_away", said, known)
    if job.now - due > RELAYED_WITHIN:
        said = f"It is due since {at(since)}, and no scheduler has published it: none runs, or it is behind."
        return Explanation("waits_for_scheduler", said, known)
    if job.broker is not None and not job.admitted and job.now - since > TAKEN_AGAIN:
        said = f"It is due since {at(since)}, and the broker, which answers, has not confirmed it."
        return Explanation("broker_away", said, known)
    return None


def _room(job: JobSnapshot) -> Explanation | None:
    """Held by a limit of its queue, or because no worker serves it. No limit holds an admitted job."""
    if job.limits.paused and not job.admitted:
        return Explanation("paused", sentences.paused(job.queue), {"queue": job.queue} | _position(job, None))
    if job.external and not job.capacity.for_type:
        return _rate(job) or _running_limit(job) or _key(job) or _tenant_limit(job) or _lease(job)
    if not job.capacity.for_queue:
        said = sentences.unserved_queue(job.queue)
        return Explanation("no_worker_for_queue", said, {"queue": job.queue} | _position(job, None))
    if not job.capacity.for_type:
        said = sentences.unserved_type(job.queue, job.type)
        return Explanation("no_worker_for_type", said, {"queue": job.queue, "type": job.type} | _position(job, None))
    return None if job.admitted else _rate(job) or _running_limit(job) or _key(job) or _tenant(job)


def _lease(job: JobSnapshot) -> Explanation:
    """An HTTP worker is known only while it holds a lease."""
    said = (
        f"It waits for a worker to lease it from queue {job.queue}; none holds a lease on a job of type {job.type} now."
    )
    return Explanation(
        "waits_for_lease", said, {"queue": job.queue, "type": job.type} | _position(job, expected_start(job))
    )


def _rate(job: JobSnapshot) -> Explanation | None:
    limits = job.limits
    if limits.rate_jobs is None or limits.next_start is None or limits.next_start <= job.now:
        return None
    said = f"{sentences.starts_at_most(job.queue, limits.rate_jobs, limits.rate_per or 0)}; the next at "
    data = {"queue": job.queue, "rate_limit": {"jobs": limits.rate_jobs, "per": limits.rate_per}}
    return _in_line("rate_limit", said + at(limits.next_start), job, data | {"next_start": limits.next_start})


def _running_limit(job: JobSnapshot) -> Explanation | None:
    most = job.limits.max_running
    if most is None or job.load.running < most:
        return None
    said = sentences.runs_at_most(job.queue, most, job.load.running)
    return _in_line("max_running", said, job, {"queue": job.queue, "max_running": most, "running": job.load.running})


def _key(job: JobSnapshot) -> Explanation | None:
    most = job.limits.max_running_per_key
    if most is None or job.concurrency_key is None or job.load.of_key < most:
        return None
    said = (
        f'At most {count(most, "job")} of concurrency key "{job.concurrency_key}" may run at once on queue {job.queue}'
    )
    data = {"concurrency_key": job.concurrency_key, "max_running_per_key": most, "running": job.load.of_key}
    return _in_line("concurrency_key", said, job, {"queue": job.queue} | data)


def _tenant(job: JobSnapshot) -> Explanation | None:
    """Its tenant runs as many jobs as it may: by its own limit, or beside others on a queue that they share."""
    if job.limits.most_of_tenant is not None or not job.limits.shared:
        return _tenant_limit(job)
    slots = min(job.capacity.slots, job.limits.max_running or job.capacity.slots)
    if job.load.of_tenant < beside_others(slots):
        return None
    said = (
        f"Its tenant has {job.load.of_tenant} of the {slots} slots of queue {job.queue}, "
        "and leaves the rest to the other tenants"
    )
    return _in_line("tenant_share", said, job, {"queue": job.queue, "slots": slots, "running": job.load.of_tenant})


def _tenant_limit(job: JobSnapshot) -> Explanation | None:
    most = job.limits.most_of_tenant
    if most is None or job.load.everywhere < most:
        return None
    said = f"Its tenant runs at most {count(most, 'job')} at once, and {job.load.everywhere} are running"
    return _in_line("tenant_limit", said, job, {"max_running": most, "running": job.load.everywhere})


def _slot(job: JobSnapshot) -> Explanation:
    """The broker, which has its reference, is away; or all slots are busy, or other jobs come first."""
    since = _due_since(job)
    if job.published and job.broker not in {None, "ok"}:
        said = f"It is due since {at(since)} and published, and the broker does not answer."
        return Explanation("broker_away", said, {"since": since, "due_at": since})
    if job.position.ahead:
        others = count(job.position.ahead, "other")
        said = f"It waits behind {others} on queue {job.queue}"
        if job.limits.shared:
            said += f", whose tenants take turns; its tenant has {job.load.of_tenant} running"
        return _in_line("behind_others", said, job, {"queue": job.queue})
    if job.capacity.busy >= job.capacity.slots > 0:
        said = f"It is next on queue {job.queue}: all {count(job.capacity.slots, 'slot')} of its workers are busy"
        return _in_line("next_in_line", said, job, {"queue": job.queue, "slots": job.capacity.slots})
    if job.on_hold and job.measured.span is None and job.now - since > RELAYED_WITHIN:
        said = f"It is due since {at(since)}, and no scheduler has admitted it: none runs."
        return Explanation("waits_for_scheduler", said, {"since": since, "due_at": since})
    return Explanation("on_its_way", f"It is on its way to a worker of queue {job.queue}.", {"queue": job.queue})


def _in_line(reason: str, said: str, job: JobSnapshot, data: dict[str, Any]) -> Explanation:
    expected = expected_start(job)
    if expected is not None:
        said += f"; it is expected to start about {at(expected)}"
    return Explanation(reason, f"{said}.", data | _position(job, expected))


def _position(job: JobSnapshot, expected: datetime | None) -> dict[str, Any]:
    return {"position": job.position.ahead + 1, "ahead": job.position.ahead, "expected_start": expected}


def _due_since(job: JobSnapshot) -> datetime:
    return job.due_since or job.due_at or job.run_at


def _said(job: JobSnapshot) -> str:
    error = _error(job) or {"class": "not known", "message": ""}
    return f"The last error was {error['class']}: {error['message']}".rstrip(" .:")


def _error(job: JobSnapshot) -> Any:
    return None if job.error is None else msgspec.json.decode(job.error)


def _to(needed: Needed) -> str:
    return "succeed" if needed.on_success else "end"


_ENDED = {
    Status.SUCCEEDED: "succeeded",
    Status.FAILED: "failed for good",
    Status.CANCELLED: "was cancelled",
    Status.EXPIRED: "expired before it was started",
}
