"""What a handler sees of its attempt.

The same calls work in every handler: `await` them in an `async def`, just call them in a `def`. Once an attempt is
over, they do nothing more for it. The process that runs the attempt passes in what does the work, as the protocols
below: this module imports no driver, no HTTP client and no worker, so that a handler module is quick to import.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from accepted.domain.failures import HandlerError, InvalidJob
from accepted.domain.job import Job, progress_json
from accepted.domain.retry import Retry

if TYPE_CHECKING:
    from sqlalchemy import CursorResult, Executable
    from sqlalchemy.ext.asyncio import AsyncConnection

WITHIN_A_STEP: ContextVar[bool] = ContextVar("WITHIN_A_STEP", default=False)
"""Whether the caller is the function of a step. Set by the worker; reaches its thread and the tasks that it starts."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to an HTTP call: `headers` as received, repeats too; `body` raw, and cut off if `truncated`.

    `broken_off`: the error that ended the body early, if it was not the cap.
    """

    status_code: int
    headers: list[tuple[str, str]]
    body: bytes
    truncated: bool
    broken_off: HandlerError | None = None


class HttpClient(Protocol):
    """The guarded HTTP client, `accepted_worker.outbound.egress.Egress`: public addresses only, one deadline."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes, *, timeout: float, max_bytes: int
    ) -> HttpAnswer:
        """Call `url`; any status is an answer. `timeout` in seconds; the body is cut off at `max_bytes`.

        Raises `InvalidJob` for a URL, header or address that is not allowed, `TargetTimeout`, and `TransientError`.
        """
        ...


class MailServer(Protocol):
    """The operator's mail server, `accepted_worker.outbound.mail.Mail`."""

    @property
    def sender(self) -> str | None:
        """ACCEPTED_SMTP_FROM."""
        ...

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, *, leave_out_busy: bool
    ) -> Mapping[str, str]:
        """Hand over one message; returns the refused recipients, each with the server's answer."""
        ...


class BlockingTransaction(Protocol):
    """The transaction as a `def` handler sees it."""

    def execute(self, statement: "Executable", parameters: Any = None) -> "CursorResult[Any]":
        """As SQLAlchemy's `Connection.execute`; all rows are there when it returns."""
        ...


class ContextTransaction(Protocol):
    """`async with` gives a SQLAlchemy connection; in `def` handlers `with` gives one whose calls block."""

    async def __aenter__(self) -> "AsyncConnection": ...

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...

    def __enter__(self) -> BlockingTransaction: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


class ContextLog(Protocol):
    """A structured logger, as of structlog: each line has an event and fields."""

    def debug(self, event: str, /, **fields: Any) -> Any: ...

    def info(self, event: str, /, **fields: Any) -> Any: ...

    def warning(self, event: str, /, **fields: Any) -> Any: ...

    def error(self, event: str, /, **fields: Any) -> Any: ...

    def exception(self, event: str, /, **fields: Any) -> Any: ...

    def bind(self, **fields: Any) -> "ContextLog": ...


class ContextTools(Protocol):
    """What does the work of a context: in the worker the tools themselves, in a child process a client of them."""

    def call(self, work: Coroutine[Any, Any, Any], /) -> Any:
        """What the handler gets for a coroutine: on an event loop the coroutine, in a plain thread its result."""
        ...

    def say(self, progress: str, /) -> None:
        """Report progress, as JSON text. Returns at once."""
        ...

    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Run a step once for the job."""
        ...

    def submit(self, body: dict[str, Any], /) -> Coroutine[Any, Any, UUID]:
        """Submit a child, given as a body of POST /jobs."""
        ...

    def results(self) -> Coroutine[Any, Any, dict[str, Any]]:
        """The results of the jobs that this one depends on, by their refs."""
        ...

    def transaction(self) -> ContextTransaction:
        """The one transaction of the attempt."""
        ...


class EndRequest:
    """Whether the attempt is asked to end early, and whether its handler has seen that. For any thread."""

    def __init__(self) -> None:
        self.asked = False
        self.noticed = False

    def look(self) -> bool:
        if self.asked:
            self.noticed = True
        return self.asked


class Context:
    """One attempt, as its handler sees it."""

    def __init__(
        self,
        job: Job,
        tools: ContextTools,
        *,
        egress: HttpClient,
        mail: MailServer,
        log: ContextLog,
        max_result_bytes: int,
    ) -> None:
        self.job = job
        """The job as it was claimed. `job.id` is the same on every attempt: a good key for what you do elsewhere.
        `job.attempt` counts from 1 and never goes down. Nothing here changes while the handler runs."""
        self.egress = egress
        """The guarded HTTP client: public addresses only, one deadline, capped answers. For `async def` handlers."""
        self.mail = mail
        """The operator's mail server. For `async def` handlers."""
        self.max_result_bytes = max_result_bytes
        """Bytes that the result may have as JSON: the setting `MAX_RESULT_BYTES`."""
        self.log = log
        """A logger that adds job_id, type and attempt to each line. It never logs the payload.
        If the process dies on the next line: what was logged was written."""
        self.ending = EndRequest()
        """Set by the worker. An attempt in a process is killed instead."""
        self.answer: str | None = None
        """For built-in handlers: the answer of the receiver that they called, as JSON text. It is recorded with the
        attempt in one commit, whatever the outcome."""
        self.tools = tools
        """For the worker."""

    @property
    def results(self) -> Any:
        """What the jobs that this one depends on came to, by their refs: `(await ctx.results)["load"]`.

        In a `def` handler `ctx.results` itself is that dict. Empty for a job that depends on none. Read from the ledger
        when it is first asked for, and once for the attempt; while the ledger is away, it waits. A job that is past its
        retention is missing. Raises `LeaseLost` when another worker has the job by now.
        """
        return self.tools.call(self.tools.results())

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
        self.tools.say(progress_json(percent, message))
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
        return self.tools.call(self.tools.step(name, function, *args, **kwargs))

    def transaction(self) -> ContextTransaction:
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
        return self.tools.transaction()

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
        return self.tools.call(self.tools.submit({"type": type, "payload": payload or {}, **options}))


class _Turn:
    """Awaiting it gives the other attempts a turn, so that a handler which reports in a loop starves nobody."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_A_TURN = _Turn()
