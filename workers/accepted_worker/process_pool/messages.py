"""The protocol between a worker and its child processes: JSON, each message with its length in front.

The child answers `Setup` with `Ready`, and `RunAttempt` with one `Returned` or `Raised`. Until then it may send
`Progressed` and `Logged`, and several `Ask…` at a time. The worker answers each of these with `Answered` or `Denied` of
the same `id`, or not at all after `GivenUp`. To `AskStep` it may first answer `RunStep`; the child then sends
`StepRan`, which is answered in turn. After `Returned` or `Raised` no more messages of that attempt follow.

A child that runs suspects answers `RunAlone` with `HandlerOver` and `Recorded`. Meanwhile the worker may send
`EndAlone`, which may come too late and is not answered.
"""

import struct
from collections.abc import Callable

import msgspec

from accepted.domain.failures import AuthError, FailureClass, InvalidJob, LeaseLost, TargetTimeout, TransientError
from accepted.domain.job import Job
from accepted.domain.network.servers import SmtpServer
from accepted.errors import LedgerUnavailable
from accepted.storage.attempts.claims import Claim
from accepted_worker import memory_budget
from accepted_worker.attempt import failures

LENGTH = struct.Struct("!I")
"""The length of a message in bytes."""

MAX_TEXT = 16 * 1024
"""Characters of an exception's message, because the other process has to hold it in memory."""

TOOL_ERRORS: dict[str, Callable[[str], Exception]] = {
    "LeaseLost": lambda _: LeaseLost(),
    **{each.__name__: each for each in (InvalidJob, AuthError, TargetTimeout, TransientError, LedgerUnavailable)},
}
"""The exceptions of the tools by the names that stand for them in messages. Objects of other types never cross."""


class Setup(msgspec.Struct, frozen=True, tag=True):
    """What a child needs of the worker's settings. Sent once."""

    modules: tuple[str, ...]
    egress_allow: str
    smtp_server: SmtpServer | None
    smtp_sender: str | None
    max_result_bytes: int
    max_payload_bytes: int
    smtp_from_allow: tuple[str, ...] = ()
    memory: int = memory_budget.USUAL_MOST
    """Bytes that all children together may take for what they decode."""
    memory_file: int | None = None
    """The descriptor of their `memory_budget`. The pool sets it."""


class RunAttempt(msgspec.Struct, frozen=True, tag=True):
    """Run one attempt."""

    job: Job


class RunStep(msgspec.Struct, frozen=True, tag=True):
    """Answers `AskStep`: the step has no result yet, so run its function."""

    id: int


class RunAlone(msgspec.Struct, frozen=True, tag=True):
    """Run one attempt as a worker with these settings (JSON) does, and record its outcome."""

    claim: Claim
    settings: msgspec.Raw


class EndAlone(msgspec.Struct, frozen=True, tag=True):
    """The attempt is to end: `stopping` hands its job back, else the job was cancelled."""

    stopping: bool


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The result of a request, as JSON."""

    id: int
    value: msgspec.Raw


class Denied(msgspec.Struct, frozen=True, tag=True):
    """The request raised an exception; `kind` is a name of `TOOL_ERRORS`."""

    id: int
    kind: str
    message: str

    @classmethod
    def of(cls, id: int, error: Exception) -> "Denied":
        """An exception that is not in `TOOL_ERRORS` goes by its failure class, or else as transient."""
        known = error if TOOL_ERRORS.get(type(error).__name__) else failures.of(error)
        kind = type(known).__name__
        return cls(id, kind if kind in TOOL_ERRORS else TransientError.__name__, readable(known))

    def error(self) -> Exception:
        """The exception to raise in the child."""
        return TOOL_ERRORS[self.kind](self.message)


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The handlers are loaded."""


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """The handler called `ctx.progress`; `value` is JSON text."""

    value: str


class Logged(msgspec.Struct, frozen=True, tag=True):
    """The handler has logged these lines; the last one is number `last` of its attempt."""

    last: int
    lines: list[msgspec.Raw]


class AskStep(msgspec.Struct, frozen=True, tag=True):
    """`ctx.step`: is there a result under this name?"""

    id: int
    name: str


class StepRan(msgspec.Struct, frozen=True, tag=True):
    """The function of a step returned `result`, as JSON. Answered when that is committed."""

    id: int
    result: msgspec.Raw


class AskChild(msgspec.Struct, frozen=True, tag=True):
    """`ctx.submit`; `body` is a body of POST /jobs. Answered with the id of the child."""

    id: int
    body: dict[str, object]


class AskResults(msgspec.Struct, frozen=True, tag=True):
    """`ctx.results`. Answered with an object."""

    id: int


class GivenUp(msgspec.Struct, frozen=True, tag=True):
    """Nothing waits for the answer any more: the step raised an exception, or its caller was cancelled."""

    id: int


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The handler returned `result`, as JSON. `left_running`: something that it started still runs."""

    result: msgspec.Raw
    left_running: bool = False


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The handler raised an exception. `left_running` as in `Returned`."""

    failure_class: FailureClass
    message: str
    retry_after: float | None
    traceback: str | None
    where: str | None
    left_running: bool = False


class HandlerOver(msgspec.Struct, frozen=True, tag=True):
    """The handler of a `RunAlone` has ended, and its outcome is being recorded."""


class Recorded(msgspec.Struct, frozen=True, tag=True):
    """The outcome of a `RunAlone` is in the ledger, unless the fence refused it. `left_running` as in `Returned`."""

    outcome: str
    handed_back: bool
    dead: bool
    left_running: bool = False


Order = Setup | RunAttempt | RunAlone | EndAlone
Answer = RunStep | Answered | Denied
ToChild = Order | Answer

ToolRequest = AskStep | AskChild | AskResults
FromAttempt = Progressed | Logged | ToolRequest | StepRan | GivenUp
AttemptEnd = Returned | Raised
ToWorker = Ready | FromAttempt | AttemptEnd | HandlerOver | Recorded


def encode(message: ToChild | ToWorker) -> bytes:
    """The message with its length in front."""
    body = msgspec.json.encode(message)
    return LENGTH.pack(len(body)) + body


def readable(error: BaseException) -> str:
    """The exception's message, at most `MAX_TEXT` long, without the lone surrogates that JSON cannot carry."""
    return failures.text_of(error)[:MAX_TEXT].encode(errors="replace").decode()
