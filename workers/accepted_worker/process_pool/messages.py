"""What a worker and its child processes say to each other: JSON with its length in front, over a socket pair.

`Setup` is answered by `Ready`, `Run` by one `Returned` or `Raised`. Before that, the child may say any number of
`Progressed`, and ask for the tools of its attempt, for several at once: each `Ask…` gets one `Answered` or `Denied` of
its `id`, or none after `GivenUp`. A step that is to run is answered by `RunStep`, and `StepRan` is asked in turn. After
`Returned` or `Raised` nothing comes of that attempt any more.
"""

import struct
from collections.abc import Callable

import msgspec

from accepted.domain.failures import AuthError, FailureClass, InvalidJob, LeaseLost, TargetTimeout, TransientError
from accepted.domain.job import Job
from accepted.domain.network.smtp import SmtpServer
from accepted.errors import LedgerUnavailable
from accepted_worker.attempt import failures

LENGTH = struct.Struct("!I")
"""In front of each message, in bytes."""

MAX_TEXT = 16 * 1024
"""Characters of what an exception says: the other side has to hold them."""

TOOL_ERRORS: dict[str, Callable[[str], Exception]] = {
    "LeaseLost": lambda _: LeaseLost(),
    **{each.__name__: each for each in (InvalidJob, AuthError, TargetTimeout, TransientError, LedgerUnavailable)},
}
"""What the tools raise, by the name that stands in for it on the pipe. No object of an unknown kind crosses it."""


class Setup(msgspec.Struct, frozen=True, tag=True):
    """What a child needs to know once: where its handlers are, and what a worker knows from its settings."""

    modules: tuple[str, ...]
    egress_allow: str
    smtp_server: SmtpServer | None
    smtp_sender: str | None
    max_result_bytes: int
    max_payload_bytes: int


class Run(msgspec.Struct, frozen=True, tag=True):
    """One attempt."""

    job: Job


class RunStep(msgspec.Struct, frozen=True, tag=True):
    """To `AskStep`: the step is not remembered, so its function has to run."""

    id: int


class Answered(msgspec.Struct, frozen=True, tag=True):
    """What a request came to, as JSON."""

    id: int
    value: msgspec.Raw


class Denied(msgspec.Struct, frozen=True, tag=True):
    """A request raised; `kind` is a name of `TOOL_ERRORS`."""

    id: int
    kind: str
    message: str

    @classmethod
    def of(cls, id: int, error: Exception) -> "Denied":
        """What is not of the table itself is of its failure class, or else transient."""
        known = error if TOOL_ERRORS.get(type(error).__name__) else failures.of(error)
        kind = type(known).__name__
        return cls(id, kind if kind in TOOL_ERRORS else TransientError.__name__, readable(known))

    def error(self) -> Exception:
        """To be raised where it was asked."""
        return TOOL_ERRORS[self.kind](self.message)


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The handlers are loaded."""


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """The handler has called `ctx.progress`; `value` is JSON text, as the ledger keeps it."""

    value: str


class AskStep(msgspec.Struct, frozen=True, tag=True):
    """`ctx.step`: what is remembered under this name?"""

    id: int
    name: str


class StepRan(msgspec.Struct, frozen=True, tag=True):
    """The function of a step has returned `result`, JSON: remember it, and answer when that is committed."""

    id: int
    result: msgspec.Raw


class AskChild(msgspec.Struct, frozen=True, tag=True):
    """`ctx.submit`; `body` is one of POST /jobs. Answered by the id."""

    id: int
    body: dict[str, object]


class AskResults(msgspec.Struct, frozen=True, tag=True):
    """`ctx.results`. Answered by an object."""

    id: int


class GivenUp(msgspec.Struct, frozen=True, tag=True):
    """Nobody waits for this request any more: its step has raised, or whoever asked was cancelled."""

    id: int


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The handler has returned; `result` is JSON. `left_running`: something that it has started is not over."""

    result: msgspec.Raw
    left_running: bool = False


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The handler has raised. `left_running` as with `Returned`."""

    failure_class: FailureClass
    message: str
    retry_after: float | None
    traceback: str | None
    left_running: bool = False


Order = Setup | Run
Answer = RunStep | Answered | Denied
ToChild = Order | Answer

Ask = AskStep | AskChild | AskResults
FromAttempt = Progressed | Ask | StepRan | GivenUp
Outcome = Returned | Raised
ToWorker = Ready | FromAttempt | Outcome


def encode(message: ToChild | ToWorker) -> bytes:
    """The whole frame."""
    body = msgspec.json.encode(message)
    return LENGTH.pack(len(body)) + body


def readable(error: BaseException) -> str:
    """What it says, bounded, and without the lone surrogates that JSON cannot carry."""
    return failures.said(error)[:MAX_TEXT].encode(errors="replace").decode()
