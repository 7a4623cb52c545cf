"""What an operation of the client asks for, step by step, and what it gets back.

Each operation is a generator without I/O, written once. It yields these steps; a driver (`accepted.client.blocking`,
`accepted.client.asynchronous`) does what each says and sends the outcome in.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to send. Its outcome is an `ApiAnswer`, or `NoAnswer`.

    `patience`: seconds that the service may let it wait. With `stream` the body is not read: `ApiAnswer.lines` gives
    it. `idempotent`: carried out twice it comes to the same as once, though it has no key.
    """

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    patience: float = 0.0
    stream: bool = False
    idempotent: bool = False

    @property
    def key(self) -> str | None:
        """Its Idempotency-Key."""
        return self.headers.get("Idempotency-Key")

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again although it may have been carried out."""
        return self.method in ("GET", "HEAD") or self.key is not None or self.idempotent


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """An answer of any status; the names of `headers` are in any case."""

    status: int
    reason: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    lines: Any = None


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The connection failed: `reason` says how and where. If not `sent`, the service has seen nothing."""

    reason: str
    sent: bool


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NextLine:
    """The next line of a stream: text, None at its end, or `NoAnswer`."""

    lines: Any


@dataclass(frozen=True, slots=True)
class Found:
    """One of the values that the caller iterates over."""

    value: Any


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The end of the steps, and what they came to."""

    value: T


Step: TypeAlias = ApiRequest | Pause | NextLine | Found
Steps: TypeAlias = Generator[Step, Any, T]


def advance(steps: Steps[T], outcome: Any) -> Step | Done[T]:
    """The step after the one with this outcome; None begins."""
    try:
        return steps.send(outcome)
    except StopIteration as end:
        return Done(end.value)
