"""What a handler sees of its attempt.

The same calls work in every handler: `await` them in an `async def`, just call them in a `def`. Once an attempt is
over, they do nothing more for it. A handler that runs in a process has the same context, with other `Means`.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from accepted.domain.failures import InvalidJob
from accepted.domain.job import Job
from accepted.domain.progress import progress as progress_of
from accepted.domain.retry import Retry
from accepted_worker.attempt.loop_bridge import WITHIN_A_STEP
from accepted_worker.attempt.transactions import AttemptTransaction
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.runtime.handler_call import Ending


@dataclass(frozen=True)
class Means:
    """What the calls of one attempt come down to: the tools themselves, or in a child process what asks for them."""

    call: Callable[[Coroutine[Any, Any, Any]], Any]
    """Makes what the handler gets of a coroutine: itself to be awaited, or in a plain thread its result."""
    say: Callable[[str], None]
    """Progress, as JSON text."""
    step: Callable[..., Coroutine[Any, Any, Any]]
    submit: Callable[[dict[str, Any]], Coroutine[Any, Any, UUID]]
    results: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
    transaction: Callable[[], AttemptTransaction]


class Context:
    """One attempt, as its handler sees it."""

    def __init__(self, job: Job, egress: Egress, mail: Mail, means: Means, max_result_bytes: int) -> None:
        self.job = job
        """The job as it was claimed. `job.id` is the same on every attempt: a good key for what you do elsewhere.
        `job.attempt` counts from 1 and never goes down. Nothing here changes while the handler runs."""
        self.egress = egress
        """The guarded HTTP client: public addresses only, one deadline, capped answers. For `async def` handlers."""
        self.mail = mail
        """The operator's mail server. For `async def` handlers."""
        self.max_result_bytes = max_result_bytes
        """What the result may come to as JSON: the setting `MAX_RESULT_BYTES`."""
        self.log = structlog.get_logger("handler").bind(job_id=str(job.id), type=job.type, attempt=job.attempt)
        """A logger that adds job_id, type and attempt to each line; it knows nothing of the payload.
        If the process dies on the next line: what was logged was written."""
        self.ending = Ending()
        """Set by the worker, but for an attempt in a process, which is killed instead."""
        self.answer: str | None = None
        """For handlers of our own: what whoever they called answered, as JSON text. Recorded with the attempt in one
        commit, whatever the attempt comes to."""
        self.means = means
        """For the worker."""

    @property
    def results(self) -> Any:
        """What the jobs that this one depends on came to, by their refs: `(await ctx.results)["load"]`.

        In a `def` handler `ctx.results` itself is that dict. Empty for a job that depends on none. Read from the ledger
        when it is first asked for, and once for the attempt; while the ledger is away, it waits. A job that is past its
        retention is missing. Raises `LeaseLost` when another worker has the job by now.
        """
        return self.means.call(self.means.results())

    @property
    def cancelled(self) -> bool:
        """Whether the attempt is to end early: its job was cancelled, its time is up, or its worker stops.

        An `async def` handler gets a CancelledError as well. A thread cannot be interrupted, so a `def` handler that
        takes long looks here now and then, and returns or raises; whatever it does after a True, the job ends as it
        was told to. May be read from any thread. In a process it is never True: such an attempt is killed.
        """
        return self.ending.look()

    def progress(self, percent: float, message: str = "") -> Awaitable[None]:
        """Say how far this attempt is: 0 to 100, and up to 500 characters for people.

        Returns at once and never fails because of the ledger: what was said last is written up to four times a
        second, and again with the outcome. Raises `ValueError` for any other percentage. Watchers see it in the job,
        in `events` and in long polls; the next attempt starts without.
        If the process dies on the next line: it may not have been written, and nothing else depends on it.
        """
        self.means.say(progress_of(percent, message))
        return _A_TURN

    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function(*args, **kwargs)` once for this job, and remember its result across attempts and crashes.

        `function` may be async or not; one that is not runs in a thread, of the handler's process. What comes back, on
        this attempt and on every later one, is its result as read back from JSON (a tuple as a list, a date as a
        string). If it raises, nothing is remembered, and the next attempt runs it again. Steps stay when the job is
        retried or replayed. Raises `LeaseLost` when another worker has the job by now: nothing is remembered then. A
        result that is no JSON, or over `MAX_RESULT_BYTES`, is `InvalidJob`, as is a step called within a step: they do
        not nest. While the ledger is away, it waits.
        If the process dies on the next line: it is remembered, and never runs again. Only if the process dies within
        the step may `function` have run without that being known: give what it calls `ctx.job.id` as a key.
        """
        if WITHIN_A_STEP.get():
            raise InvalidJob(f"steps do not nest: step {name!r} was called by the function of another")
        return self.means.call(self.means.step(name, function, *args, **kwargs))

    def transaction(self) -> AttemptTransaction:
        """A transaction on the ledger's database that commits together with this job's success, or not at all.

        `async with ctx.transaction() as conn` gives a SQLAlchemy `AsyncConnection`; in a `def` handler
        `with ctx.transaction() as conn` gives a connection with a blocking `execute`. Leaving the block does not
        commit: the transaction stays open, holding its locks, until the handler has returned; then it, the job's
        status, its attempt, its webhook and its children commit at once. If the block raises, or the attempt fails,
        times out, is cancelled or has lost its lease, all of it is rolled back. An attempt has one. `commit` and
        `rollback` are refused. A connection that dies fails the attempt as `transient`.
        In a process, the call itself raises `InvalidJob`: a connection belongs to one process, and it is the worker's.
        If the process dies on the next line: nothing of it has happened. If it dies after the handler has returned:
        either all of it has, the success too, and the job does not run again, or nothing.
        """
        return self.means.transaction()

    def submit(
        self,
        type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay: float | None = None,
        expires_at: datetime | None = None,
        timeout: float | None = None,
        retry: Retry | Mapping[str, Any] | None = None,
        callback_url: str | None = None,
        callback_events: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, str] | None = None,
        ordering_key: str | None = None,
    ) -> Any:
        """Submit a child: a job that becomes real only if this attempt succeeds. Returns its id.

        The options are the fields of POST /jobs, checked now as there: what would be refused there raises
        `InvalidJob` here, as does a child of too many generations (`MAX_FANOUT_DEPTH`). Children are written in the
        transaction of the success; if their root then has more descendants than `MAX_FANOUT_JOBS`, nothing is, and
        the attempt fails as `invalid`. A `delay` counts from then on.
        If the process dies on the next line: there is no child, and the next attempt submits its own.
        """
        given = {
            "queue": queue, "priority": priority, "run_at": run_at, "delay": delay, "expires_at": expires_at,
            "timeout": timeout, "retry": retry, "callback_url": callback_url, "callback_events": callback_events,
            "tags": tags, "metadata": metadata, "ordering_key": ordering_key,
        }  # fmt: skip
        options = {name: value for name, value in given.items() if value is not None}
        return self.means.call(self.means.submit({"type": type, "payload": payload or {}, **options}))


class _Turn:
    """Awaiting it gives the other attempts a turn, so that a handler which reports in a loop starves nobody."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_A_TURN = _Turn()
