"""Why a job is where it is: one reason, in a sentence and as data (docs/waiting.md has the concepts).

Pure: `Facts` is one look at the ledger (`accepted.storage.jobs.explain`). The questions are asked in the order in which
a job would have to pass them, so the reason is the first thing that holds it, and what has to change for it to go on.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from accepted.domain.job import FINISHED, Status
from accepted.domain.measured import Measured
from accepted.domain.snapshot import Facts, Needed

RELAYED_WITHIN = timedelta(seconds=3)
"""After which a job that is due, and that nobody has put on the road, waits for a scheduler that is not there."""


class Explanation(msgspec.Struct, frozen=True):
    """`reason` is a word for machines, `detail` the sentence, `data` what the sentence says."""

    reason: str
    detail: str
    data: dict[str, Any]


def explain(facts: Facts) -> Explanation:
    """The one reason why the job is where it is."""
    if facts.status in FINISHED:
        return _finished(facts)
    if facts.status == Status.RUNNING:
        return _running(facts)
    if facts.status == Status.BLOCKED:
        return _blocked(facts)
    return _moment(facts) or _room(facts) or _slot(facts)


def wire(facts: Facts) -> dict[str, Any]:
    """The explanation as it is answered: flat, with the last error of a job that had one."""
    found = explain(facts)
    body = {"id": facts.id, "status": facts.status, "reason": found.reason, "detail": found.detail, **found.data}
    return body if facts.error is None else body | {"last_error": _error(facts)}


def _finished(f: Facts) -> Explanation:
    said = f"It {_ENDED[Status(f.status)]} at {_at(f.finished_at)}, after {_count(f.attempt, 'attempt')}."
    if f.error is not None and f.status != Status.EXPIRED:
        said += f" {_said(f)}."
    return Explanation(f.status, said, {"finished_at": f.finished_at, "attempt": f.attempt})


def _running(f: Facts) -> Explanation:
    if f.holder is None:
        return Explanation("running", "A worker has it.", {"attempt": f.attempt})
    holder = f.holder
    data = {"worker": holder.worker, "since": holder.since, "attempt": f.attempt}
    where = f"attempt {f.attempt} of {f.max_attempts} on worker {holder.worker}, since {_at(holder.since)}"
    if not holder.alive:
        heard = "is not known any more" if holder.heard_at is None else f"was last heard of at {_at(holder.heard_at)}"
        said = f"It was running as {where}, but that worker {heard}: it is about to be given to another."
        return Explanation("worker_silent", said, data | {"heard_at": holder.heard_at})
    if holder.cancel_requested:
        return Explanation("cancelling", f"Somebody asked to cancel it; it ends as its handler lets go: {where}.", data)
    return Explanation("running", f"It is running: {where}.", data)


def _blocked(f: Facts) -> Explanation:
    waits_for = [{"id": needed.id, "status": needed.status, "to": _to(needed)} for needed in f.needs]
    data: dict[str, Any] = {"waits_for": waits_for, "jobs": f.blockers}
    first = f.needs[0] if f.needs else None
    if first is None:
        return Explanation("waits_for_jobs", f"It waits for {_count(f.blockers, 'other job')}.", data)
    others = f" and {_count(f.blockers - 1, 'other')}" if f.blockers > 1 else ""
    name = f"job {first.id} ({first.status or 'gone'}){others}"
    if f.ordering_key is not None and not first.on_success:
        said = f'It waits for its turn under ordering key "{f.ordering_key}": for {name} to end.'
        return Explanation("ordering_key", said, data | {"ordering_key": f.ordering_key})
    return Explanation("waits_for_jobs", f"It waits for {name} to {_to(first)}.", data)


def _moment(f: Facts) -> Explanation | None:
    """Held by nothing but a time that has not come, or that the relay has not noticed."""
    if f.target is not None:
        said = f"Nothing is sent to {f.target.host} before {_at(f.target.until)}: {f.target.why}."
        return Explanation("target_held", said, {"target": f.target.host, "held_until": f.target.until})
    due = f.due_at or f.run_at
    waits = f.status in {Status.SCHEDULED, Status.RETRYING}
    if waits and due > f.now:
        data: dict[str, Any] = {"due_at": due}
        if f.status == Status.SCHEDULED:
            return Explanation("not_due", f"It is not due until {_at(due)}.", data)
        data |= {"next_attempt": f.attempt + 1, "max_attempts": f.max_attempts}
        said = f"Attempt {f.attempt} of {f.max_attempts} failed. {_said(f)}. The next follows at {_at(due)}."
        return Explanation("retry", said, data)
    if not f.on_the_road and not f.held and f.now - due > RELAYED_WITHIN:
        said = f"It is due since {_at(due)}, and no scheduler has put it on the road: none runs, or the broker is away."
        return Explanation("waits_for_scheduler", said, {"due_at": due})
    return None


def _room(f: Facts) -> Explanation | None:
    """Held by a limit of its queue, or by nobody's being there to run it. On the road no limit holds it any more."""
    if f.limits.paused and not f.on_the_road:
        return Explanation("paused", f"Queue {f.queue} is paused.", {"queue": f.queue} | _place(f, None))
    if f.external and not f.crew.for_type:
        return _rate(f) or _running_limit(f) or _key(f) or _lease(f)
    if not f.crew.for_queue:
        said = f"No live worker serves queue {f.queue}."
        return Explanation("no_worker_for_queue", said, {"queue": f.queue} | _place(f, None))
    if not f.crew.for_type:
        said = f"No live worker of queue {f.queue} has a handler for type {f.type}."
        return Explanation("no_worker_for_type", said, {"queue": f.queue, "type": f.type} | _place(f, None))
    return None if f.on_the_road else _rate(f) or _running_limit(f) or _key(f)


def _lease(f: Facts) -> Explanation:
    """Who leases jobs is known only while he holds one."""
    said = f"It waits for a worker to lease it from queue {f.queue}; none holds a lease on a job of type {f.type} now."
    return Explanation("waits_for_lease", said, {"queue": f.queue, "type": f.type} | _place(f, _expected_start(f)))


def _rate(f: Facts) -> Explanation | None:
    limits = f.limits
    if limits.rate_jobs is None or limits.next_start is None or limits.next_start <= f.now:
        return None
    said = f"Queue {f.queue} starts at most {limits.rate_jobs} jobs in {limits.rate_per:g} s; the next at "
    data = {"queue": f.queue, "rate_limit": {"jobs": limits.rate_jobs, "per": limits.rate_per}}
    return _in_line("rate_limit", said + _at(limits.next_start), f, data | {"next_start": limits.next_start})


def _running_limit(f: Facts) -> Explanation | None:
    most = f.limits.max_running
    if most is None or f.load.running < most:
        return None
    said = f"Queue {f.queue} runs at most {_count(most, 'job')} at once, and {f.load.running} are running"
    return _in_line("max_running", said, f, {"queue": f.queue, "max_running": most, "running": f.load.running})


def _key(f: Facts) -> Explanation | None:
    most = f.limits.max_running_per_key
    if most is None or f.concurrency_key is None or f.load.of_key < most:
        return None
    said = f'At most {_count(most, "job")} of concurrency key "{f.concurrency_key}" may run at once on queue {f.queue}'
    data = {"concurrency_key": f.concurrency_key, "max_running_per_key": most, "running": f.load.of_key}
    return _in_line("concurrency_key", said, f, {"queue": f.queue} | data)


def _slot(f: Facts) -> Explanation:
    """Nothing holds it but that all slots are taken, or will be by those before it."""
    if f.place.ahead:
        others = _count(f.place.ahead, "other")
        return _in_line("behind_others", f"It waits behind {others} on queue {f.queue}", f, {"queue": f.queue})
    if f.crew.busy >= f.crew.slots > 0:
        said = f"It is next on queue {f.queue}: all {_count(f.crew.slots, 'slot')} of its workers are busy"
        return _in_line("next_in_line", said, f, {"queue": f.queue, "slots": f.crew.slots})
    return Explanation("on_its_way", f"It is on its way to a worker of queue {f.queue}.", {"queue": f.queue})


def _in_line(reason: str, said: str, f: Facts, data: dict[str, Any]) -> Explanation:
    expected = _expected_start(f)
    if expected is not None:
        said += f"; it is expected to start about {_at(expected)}"
    return Explanation(reason, f"{said}.", data | _place(f, expected))


def _place(f: Facts, expected: datetime | None) -> dict[str, Any]:
    return {"position": f.place.ahead + 1, "ahead": f.place.ahead, "expected_start": expected}


def _expected_start(f: Facts) -> datetime | None:
    """When as many have started as go first, at the pace that was measured; None where nothing was."""
    waits = [(f.place.ahead + 1, _pace(f))]
    if f.limits.max_running_per_key is not None and f.concurrency_key is not None:
        waits.append((f.place.of_key + 1, _starts_per_second(f.limits.max_running_per_key, f.measured)))
    seconds = [jobs / pace for jobs, pace in waits if pace]
    return f.now + timedelta(seconds=max(seconds)) if seconds else None


def _pace(f: Facts) -> float | None:
    """Jobs of the queue that start in a second: as many as ended of late, else as many as its slots allow for."""
    slots = min(f.crew.slots, f.limits.max_running or f.crew.slots)
    pace = f.measured.rate_out or _starts_per_second(slots, f.measured)
    if f.limits.rate_jobs is None or not f.limits.rate_per:
        return pace
    allowed = f.limits.rate_jobs / f.limits.rate_per
    return allowed if pace is None else min(pace, allowed)


def _starts_per_second(slots: int, measured: Measured) -> float | None:
    return slots / measured.mean_run_time if measured.mean_run_time else None


def _said(f: Facts) -> str:
    error = _error(f) or {"class": "not known", "message": ""}
    return f"The last error was {error['class']}: {error['message']}".rstrip(" .:")


def _error(f: Facts) -> Any:
    return None if f.error is None else msgspec.json.decode(f.error)


def _to(needed: Needed) -> str:
    return "succeed" if needed.on_success else "end"


def _at(moment: datetime | None) -> str:
    return "a time not known" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_ENDED = {
    Status.SUCCEEDED: "succeeded",
    Status.FAILED: "failed for good",
    Status.CANCELLED: "was cancelled",
    Status.EXPIRED: "expired before it was started",
}
