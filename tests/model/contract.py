"""What contract section 3 says of every step, read off the ledger alone: no model is asked here."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from tests.model.rows import Row, Snapshot

WAITING = frozenset({"scheduled", "queued", "retrying"})
AGAIN = frozenset({"failed", "cancelled", "expired"})
FINISHED = AGAIN | {"succeeded"}

BLOCKED = "blocked"
"""The one status that no job can have yet: it comes with workflows and ordering keys (issue 4)."""

STATUSES = WAITING | FINISHED | {"running"}

GOES_TO = {
    "scheduled": {"queued", "cancelled", "expired"},
    "queued": {"running", "cancelled", "expired"},
    "running": {"succeeded", "retrying", "failed", "cancelled", "queued"},
    "retrying": {"queued", "cancelled", "expired"},
}
"""The contract's table; `retrying` goes to `running` through `queued`."""

ASKED_FOR = {(status, "queued") for status in AGAIN} | {("failed", "scheduled")}
"""Only because somebody asked. A replay that is spread over some time gives all but the first a `run_at` ahead."""

BEGINS_AS = {"scheduled", "queued"}

TRANSITIONS = (
    {(one, other) for one, others in GOES_TO.items() for other in others}
    | ASKED_FOR
    | {("", status) for status in BEGINS_AS}
)
"""Everything that can happen to the status of a job; "" is before there was one."""


def check(before: Snapshot, after: Snapshot, asked_again: bool) -> Counter[tuple[str, str]]:
    """Fails when this step is not legal. Returns the transitions that jobs took; `asked_again` allows `ASKED_FOR`."""
    transitions: Counter[tuple[str, str]] = Counter()
    assert before.jobs.keys() <= after.jobs.keys(), "a job is lost"
    for job_id, now in after.jobs.items():
        for problem in _problems(now):
            raise AssertionError(f"job {job_id.int}: {problem}: {now}")
        was = before.jobs.get(job_id)
        transition = ("" if was is None else was.status, now.status)
        if was is None or was.status != now.status:
            assert transition in TRANSITIONS, f"job {job_id.int} went from {transition[0]!r} to {transition[1]!r}"
            assert asked_again or transition not in ASKED_FOR, (
                f"job {job_id.int} went {transition}, and nobody asked for it"
            )
            transitions[transition] += 1
        if was is not None:
            _check_step(job_id, was, now)
    return transitions


def _problems(row: Row) -> Iterator[str]:
    """What is wrong with a job, whatever happened before."""
    if len(row.outbox) != (row.status in WAITING):
        yield "exactly the waiting jobs have a row in the outbox"
    if any(waiting.attempt != row.attempt for waiting in row.outbox):
        yield "the row in the outbox is of another attempt"
    if [one.number for one in row.attempts if one.open] != ([row.attempt] if row.status == "running" else []):
        yield "exactly the running jobs have an open attempt, and it is the last"
    if [one.number for one in row.attempts] != list(range(1, row.attempt + 1)):
        yield "each attempt has one record"
    if row.finished != (row.status in FINISHED):
        yield "exactly the finished jobs have a finished_at"
    if len(row.letters) > (row.status == "failed"):
        yield "a dead letter is a failed job"
    if (row.result is not None) != (row.status == "succeeded"):
        yield "exactly the succeeded jobs have a result"


def _check_step(job_id: UUID, was: Row, now: Row) -> None:
    which = f"job {job_id.int}"
    claimed = (was.status, now.status) == ("queued", "running")
    assert now.attempt == was.attempt + claimed, f"{which}: the attempt went from {was.attempt} to {now.attempt}"
    recorded = [(one, same) for one, same in zip(was.attempts, now.attempts, strict=False) if not one.open]
    assert all(one == same for one, same in recorded), f"{which}: a recorded outcome changed: {recorded}"
    assert Counter(was.told) <= Counter(now.told), f"{which}: a webhook is lost"
    if was.status in FINISHED and now.status == was.status:
        kept = ("result", "error", "attempt", "max_attempts", "payload", "told", "attempts")
        changed = {name for name in kept if getattr(was, name) != getattr(now, name)}
        assert not changed, f"{which} had finished, and its {changed} changed"
    if was.status == "succeeded":
        assert now.status == was.status, f"{which} had succeeded, and is {now.status}"


def check_keys(before: Snapshot, after: Snapshot) -> None:
    """A key that is still good names the job that it named before."""
    for key, (job_id, _) in after.keys.items():
        former, good_for = before.keys.get(key, (job_id, 0.0))
        assert job_id == former or good_for <= 0, f"the key {key} is still good, and now names another job"
    assert len({job_id for job_id, _ in after.keys.values()}) == len(after.keys), "one job, two keys"
