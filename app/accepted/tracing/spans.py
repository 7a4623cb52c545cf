"""One span, or none: what the code around a traced piece of work deals with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class OpenSpan:
    """`with` makes the span the current one, and ends it. An exception that leaves the block is its error, unless the
    block has called `failed`."""

    __slots__ = ("_failed", "_span", "_token")

    def __init__(self, span: "Span") -> None:
        self._span = span
        self._token: Any = None
        self._failed = False

    def __enter__(self) -> "OpenSpan":
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from opentelemetry import context

        context.detach(self._token)
        if kind is not None and not self._failed:
            self.failed(str(getattr(error, "failure_class", kind.__qualname__)))
        self._span.end()

    def describe(self, attributes: Mapping[str, str | int]) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def failed(self, kind: str) -> None:
        """`kind`, of few values, becomes `error.type`. What was raised is not recorded: it may quote a payload."""
        from opentelemetry.trace import StatusCode

        self._failed = True
        if self._span.is_recording():
            self._span.set_attribute("error.type", kind)
            self._span.set_status(StatusCode.ERROR)


class NoSpan(OpenSpan):
    """Where no span is made."""

    __slots__ = ()

    def __init__(self) -> None: ...

    def __enter__(self) -> "OpenSpan":
        return self

    def __exit__(self, *_: object) -> None: ...

    def describe(self, attributes: Mapping[str, str | int]) -> None: ...

    def rename(self, name: str) -> None: ...

    def failed(self, kind: str) -> None: ...


NONE = NoSpan()
