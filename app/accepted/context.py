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

    def results(self) -> dict[str, Any]:
        """The results of the jobs that this one depends on, by their refs. May block, but never an event loop of a
        worker."""
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
        """The job as it was claimed. It does not change while the handler runs. `job.id` is the same on every attempt:
        use it as an idempotency key for calls to other systems. `job.attempt` counts from 1 and never decreases."""
        self.egress = egress
        """The guarded HTTP client: public addresses only, one deadline, limited bodies. For `async def` handlers."""
        self.mail = mail
        """The operator's mail server. For `async def` handlers."""
        self.max_result_bytes = max_result_bytes
        """Bytes that the result may have as JSON: the setting `MAX_RESULT_BYTES`."""
        self.log = log
        """A logger that adds job_id, type and attempt to each line. It never logs the payload. Its lines, and those of
        `logging`, are kept with the job: the last 1,000 and 64 KiB of each attempt, from level info on.
        If the process dies on the next line: what was logged was written to standard error, and what was logged more
        than a second ago is kept with the job."""
        self.ending = EndRequest()
        """Set by the worker. An attempt in a process is killed instead."""
        self.answer: str | None = None
        """For built-in handlers: the answer of the receiver that they called, as JSON text. It is recorded with the
        attempt in one commit, whatever the outcome."""
        self.tools = tools
        """For the worker."""

    @property
    def results(self) -> dict[str, Any]:
        """The results of the jobs that this one depends on, by their refs: `ctx.results["load"]`.

        A plain dict in every kind of handler, and a new one on each use. It is empty for a job without dependencies.
        It is read from the ledger before the handler begins (in a process on first use); while the ledger is away, the
        attempt waits. Raises `LeaseLost` in a process when another worker has the job.
        """
        return self.tools.results()

    @property
    def cancelled(self) -> bool:
        """Whether the attempt should end early: its job was cancelled, it timed out, or its worker stops.

        An `async def` handler gets a CancelledError as well. A thread cannot be interrupted, so a long-running `def`
        handler checks this and returns or raises. After a True, its result is not used: the job is cancelled, fails as
        `timeout`, or is handed back. May be read from any thread. In a process it is never True: the attempt is killed.
        """
        return self.ending.look()

    def progress(self, percent: float, message: str = "") -> Awaitable[None]:
        """Report progress: 0 to 100 percent, and a message of up to 500 characters.

        Returns at once and never fails because of the ledger. The latest report is written up to four times a second,
        and again with the outcome. Clients see it in the job, in `events` and in long polls; the next attempt starts
        without progress. Raises `ValueError` for any other percentage.
        If the process dies on the next line: the report may be lost, and nothing else depends on it.
        """
        self.tools.say(progress_json(percent, message))
        return _A_TURN

    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function(*args, **kwargs)` once for this job, and remember its result across attempts and crashes.

        `function` may be async; if not, it runs in a thread of the handler's process. This attempt and every later one
        get the result as it is read back from JSON: a tuple as a list, a date as a string. If `function` raises,
        nothing is remembered, and the next attempt runs it again. Steps are kept when the job is retried or replayed.
        While the ledger is away, the call waits. Raises `LeaseLost`, and remembers nothing, when another worker has the
        job. Raises `InvalidJob` for a result that is not JSON or is over `MAX_RESULT_BYTES`, and for a step within a
        step.
        If the process dies on the next line: the step is remembered and never runs again. If it dies within the step,
        `function` may have run without a record: pass `ctx.job.id` as an idempotency key to what it calls.
        """
        if WITHIN_A_STEP.get():
            raise InvalidJob(f"steps do not nest: step {name!r} was called by the function of another")
        return self.tools.call(self.tools.step(name, function, *args, **kwargs))

    def transaction(self) -> ContextTransaction:
        """A transaction on the ledger's database that commits with this job's success, or not at all.

        `async with ctx.transaction() as conn` gives a SQLAlchemy `AsyncConnection`; in a `def` handler
        `with ctx.transaction() as conn` gives a connection with a blocking `execute`. The transaction stays open after
        the block, and keeps its locks, until the handler returns. Then it commits together with the job's status, its
        attempt, its webhook and its children. It is rolled back if the block raises, or if the attempt fails, times
        out, is cancelled or loses its lease. An attempt has one transaction. `commit` and `rollback` are refused. A
        broken connection fails the attempt as `transient`. In a process, the call raises `InvalidJob`, because the
        connection belongs to the worker.
        If the process dies on the next line: the transaction is rolled back. If it dies after the handler returned:
        either everything is committed, the success too, or nothing is.
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
        """Submit a child: a job that exists only if this attempt succeeds. Returns its id.

        The options are the fields of POST /jobs, and are checked now. Raises `InvalidJob` for what POST /jobs refuses,
        and for a child that is too deep (`MAX_FANOUT_DEPTH`). Children are written in the transaction of the
        success. If their root would then have more than `MAX_FANOUT_JOBS` descendants, nothing is written and the
        attempt fails as `invalid`. A `delay` counts from the success.
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
    """Awaiting it yields to the event loop once, so that a handler that reports in a loop does not starve others."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_A_TURN = _Turn()
