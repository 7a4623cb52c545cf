"""What is wrong right now: each problem is a sentence, since when, what to do, and where to look.

Pure: `accepted.services.monitoring.status` reads what these are made of. docs/runbook.md has a section for each kind,
and deploy/prometheus/rules.yaml an alarm that says the same.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import msgspec

from accepted.domain.ids import link
from accepted.domain.monitoring import sentences
from accepted.domain.monitoring.sentences import at, count, lasting, waiting

NOTICED = 3.0
"""Seconds for which a job waits before that is a problem: a relay and a worker that run take less."""

LONG_BACKLOG = 300.0
"""Seconds. A limit is too low if the jobs that wait behind it would take longer than this."""

MANY_LETTERS = 5
MANY_CRASHES = 2
"""Of one type in ten minutes. One crash may be a machine that was lost, or a worker that was killed."""

FAR_BEYOND = 10.0
LONG_RUN = 60.0
ENOUGH_RUNS = 20
"""An attempt is stuck if it has run for `LONG_RUN` seconds and `FAR_BEYOND` times as long as 99 % of its type do, of
which there were `ENOUGH_RUNS`."""


class Kind(StrEnum):
    """What a problem is about. docs/runbook.md has a section of this name."""

    LEDGER = "ledger"
    UNKNOWN = "unknown"
    BROKER = "broker"
    SCHEDULER = "scheduler"
    LOOP = "loop"
    NO_WORKER = "no_worker"
    PAUSED = "paused"
    LIMIT = "limit"
    BLOCKED = "blocked"
    STUCK = "stuck"
    CRASHES = "crashes"
    DEAD_LETTERS = "dead_letters"
    HOST = "host"
    WEBHOOK = "webhook"
    SCHEDULE = "schedule"


class StatusProblem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`link` is the path of the answer of this API that shows more. What it is about is in the other fields."""

    kind: Kind
    sentence: str
    since: datetime
    what_to_do: str
    link: str
    queue: str | None = None
    type: str | None = None
    job_id: str | None = None
    host: str | None = None
    schedule: str | None = None
    worker: str | None = None
    loop: str | None = None
    checks: list[str] | None = None


def ledger_away(said: str, since: datetime, left: list[str]) -> StatusProblem:
    """The ledger did not answer in time, or not at all; `left` are the checks that could not be made."""
    return StatusProblem(
        kind=Kind.LEDGER, sentence=f"{said}. Not checked: {', '.join(left)}.", since=since, checks=left,
        what_to_do="Look at PostgreSQL: whether it runs and can be reached, its locks, its disk and its load.",
        link=link("/readyz"),
    )  # fmt: skip


def ledger_slow(took: float, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.LEDGER, sentence=f"The ledger is slow: it took {took:.2f} s to answer the simplest question.",
        since=since, link=link("/readyz"),
        what_to_do="Look at PostgreSQL: its load, its locks, long transactions, and the network between.",
    )  # fmt: skip


def not_checked(check: str, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.UNKNOWN, sentence=f"Whether {check} are as they should be is not known: the check failed.",
        since=since, checks=[check], what_to_do="Look into the log of this API process for status_check_failed.",
        link=link("/healthz"),
    )  # fmt: skip


def broker_away(said: str, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.BROKER, since=since, link=link("/readyz"),
        sentence=f"The broker is away ({said}): jobs are accepted, and wait until it is back.",
        what_to_do="Look at RabbitMQ: whether it runs, its memory and disk alarms, and the network. Nothing is lost.",
    )  # fmt: skip


def no_scheduler(since: datetime, *, delayed: bool) -> StatusProblem:
    """`delayed`: jobs are due since then, and no relay has taken them."""
    about = "jobs that are due wait for it" if delayed else "retries, delays, schedules and limits stand still"
    return StatusProblem(
        kind=Kind.SCHEDULER, sentence=f"No scheduler runs, or it is far behind, since {at(since)}: {about}.",
        since=since, link=link("/workers"),
        what_to_do="Start `accepted scheduler`; if one runs, look into its log, and whether it reaches the ledger.",
    )  # fmt: skip


def failing_loop(name: str, since: datetime, fails: bool) -> StatusProblem:
    why = "each round of it fails" if fails else "a round of it does not end"
    return StatusProblem(
        kind=Kind.LOOP, loop=name, since=since, link=link("/workers"),
        sentence=f"The loop {name} of the scheduler has done nothing since {at(since)}: {why}.",
        what_to_do="Look into the log of the scheduler for loop_failed, which names the error.",
    )  # fmt: skip


def queue_problem(queue: dict[str, Any], mine: int, oldest: float | None, now: datetime) -> StatusProblem | None:
    """What holds up a queue, as `GET /queues` shows it, in which `mine` jobs wait, the oldest for so many seconds."""
    if not mine or oldest is None or oldest < NOTICED:
        return None
    name = queue["name"]
    about: Any = {"queue": name, "since": now - timedelta(seconds=oldest), "link": link(f"/queues/{name}")}
    if queue["paused"]:
        return StatusProblem(
            kind=Kind.PAUSED, sentence=f"{sentences.paused(name)[:-1]}, and {waiting(mine)} on it.",
            what_to_do=f"Resume it when the reason is gone: `accepted queues resume {name}`.", **about,
        )  # fmt: skip
    if not queue["slots"]:
        return StatusProblem(
            kind=Kind.NO_WORKER, sentence=f"{sentences.unserved_queue(name)[:-1]}, and {waiting(mine)} on it.",
            what_to_do=f"Start `accepted worker --queues {name}`, or, if it has workers, look why they are silent.",
            **about,
        )  # fmt: skip
    return _limit(queue, mine, about)


def _limit(queue: dict[str, Any], mine: int, about: dict[str, Any]) -> StatusProblem | None:
    rate, most, depth = queue["rate_limit"], queue["max_running"], queue["depth"]
    if rate is not None:
        said, pace = sentences.starts_at_most(queue["name"], rate.jobs, rate.per), rate.jobs / rate.per
    elif most is not None and depth["running"] >= most:
        said = sentences.runs_at_most(queue["name"], most, depth["running"])
        pace = queue["rate_out"] or (most / queue["mean_run_time"] if queue["mean_run_time"] else 0.0)
    else:
        return None
    takes = depth["queued"] / pace if pace else None
    if takes is None or takes < LONG_BACKLOG:
        return None
    return StatusProblem(
        kind=Kind.LIMIT, sentence=f"{said}; {waiting(mine)}, and at that pace the last one starts in {lasting(takes)}.",
        what_to_do=f"Raise the limit if what the jobs use can take it: `accepted queues limit {queue['name']}`.",
        **about,
    )  # fmt: skip


def unserved_type(queue: str, type: str, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.NO_WORKER, queue=queue, type=type, since=since, link=link("/workers"),
        sentence=f"{sentences.unserved_type(queue, type)[:-1]}, and jobs of it wait.",
        what_to_do="Start a worker whose ACCEPTED_HANDLERS has the type, or deploy the release that does.",
    )  # fmt: skip


def blocked_loop(worker: str, said: dict[str, Any], queue: str | None, heard_at: datetime) -> StatusProblem:
    """`said` is what the watchdog of the worker has found."""
    type, job_id, seconds = said.get("type"), said.get("job_id"), float(said.get("seconds") or 0.0)
    who = "Something" if type is None else f"A handler of type {type}"
    return StatusProblem(
        kind=Kind.BLOCKED, worker=worker, queue=queue, type=type, job_id=job_id,
        since=heard_at - timedelta(seconds=seconds), link=link(f"/jobs/{job_id}" if job_id else "/workers"),
        sentence=f"{who} blocks the event loop of worker {worker} at {said.get('where') or 'a place not known'}: "
        "no other job on it goes on.",
        what_to_do="Make the handler a plain `def`, or `runs_in=\"process\"`; to end it now, stop that worker.",
    )  # fmt: skip


def is_stuck(seconds: float, usual: float | None, runs: int) -> bool:
    """Whether an attempt that has run for so long is stuck; 99 % of so many runs took `usual` seconds at most."""
    return usual is not None and runs >= ENOUGH_RUNS and seconds >= max(LONG_RUN, FAR_BEYOND * usual)


def stuck(queue: str, type: str, job_id: str, since: datetime, seconds: float, usual: float) -> StatusProblem:
    return StatusProblem(
        kind=Kind.STUCK, queue=queue, type=type, job_id=job_id, since=since, link=link(f"/jobs/{job_id}/attempts"),
        sentence=f"Job {job_id} of type {type} has run for {lasting(seconds)}; 99 % of its type take at most "
        f"{usual:g} s.",
        what_to_do=f"See what it waits for; end it with `accepted jobs cancel {job_id}`. Give the type a `timeout`.",
    )  # fmt: skip


def crashes(queue: str, type: str, number: int, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.CRASHES, queue=queue, type=type, since=since,
        link=link(f"/jobs?queue={quote(queue)}&type={quote(type)}&error_class=crashed"),
        sentence=f"{count(number, 'attempt')} of type {type} on queue {queue} ended with their process in the last "
        "10 minutes: most likely a payload kills it.",
        what_to_do="Look at the jobs whose error is crashed, and at the worker's log and memory. A job that crashed "
        "twice runs alone, and is a dead letter after the third time.",
    )  # fmt: skip


def dead_letters(queue: str, type: str, number: int, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.DEAD_LETTERS, queue=queue, type=type, since=since,
        link=link(f"/dead-letters?queue={quote(queue)}&type={quote(type)}"),
        sentence=f"{count(number, 'job')} of type {type} on queue {queue} failed for good in the last 10 minutes.",
        what_to_do="See their errors; mend the cause, then `accepted dead-letters replay`, or discard them.",
    )  # fmt: skip


def held_host(host: str, until: datetime, why: str, jobs: int, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.HOST, host=host, since=since, link=link("/targets"),
        sentence=f"{sentences.held(host, until, why)}. {waiting(jobs)} for it.",
        what_to_do=f"See why it fails. It is tried again by itself; at once with `accepted targets release {host}`.",
    )  # fmt: skip


def receiver_given_up(host: str, since: datetime) -> StatusProblem:
    """Not the URL, which may hold a password of the receiver's."""
    return StatusProblem(
        kind=Kind.WEBHOOK, host=host, since=since, link=link("/webhook-deliveries?status=failed"),
        sentence=f"Webhooks to a URL of {host} are given up: every delivery has failed since {at(since)}.",
        what_to_do="Tell who receives them; send one again when it answers, and all go out again.",
    )  # fmt: skip


def unfired(name: str, said: str, since: datetime) -> StatusProblem:
    return StatusProblem(
        kind=Kind.SCHEDULE, schedule=name, since=since, link=link(f"/schedules/{quote(name)}/runs"),
        sentence=f"Schedule {name} {said}.",
        what_to_do="Look at its runs, which have the reason. A job that would not be accepted now has to be written "
        "again with PUT /schedules/{name}.",
    )  # fmt: skip
