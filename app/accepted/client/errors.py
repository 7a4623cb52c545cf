"""What the client raises, as one tree.

ClientError
├── RequestProblem              the service refuses: a problem document (RFC 9457)
│   ├── BadRequest              400  not readable
│   ├── NotAuthenticated        401  no API key, or a wrong one
│   ├── NotPermitted            403  the key lacks the scope
│   ├── NotThere                404  no such job, batch, …
│   ├── ConflictingState        409  its state does not allow the operation (412: it has changed meanwhile)
│   ├── NoLongerThere           410  past its retention, or deleted
│   ├── ValidationFailed        422  a field is wrong: `errors` says which
│   │   └── KeyUsedBefore            the idempotency key belongs to another request
│   ├── TooManyRequests         429  a quota is used up, or a queue is full
│   └── ServiceUnavailable      502, 503, 504
├── ServiceUnreachable          there was no answer
├── UnexpectedAnswer            what answers is not Accepted
├── JobFailed                   the job that was waited for has not succeeded
└── WaitTimeout                 it has not ended in time
"""

from typing import TYPE_CHECKING, Any

from accepted.errors import AcceptedError, FieldError

if TYPE_CHECKING:
    from accepted.client.fields import JobFields


class ClientError(AcceptedError):
    """The base of all that the client raises on purpose."""


class RequestProblem(ClientError):
    """The service refused the request.

    `type`, `title`, `detail` and `errors` are those of the problem document; `retry_after` is in seconds. `tries` is
    the number of times that the request was sent, `idempotency_key` the key that it had: with it the same request can
    be sent again. `request_id` names the request in the log of the service. `after_lost_answer`: an earlier try of the
    same request may have been carried out.
    """

    def __init__(self, status: int, reason: str, document: dict[str, Any]) -> None:
        self.status = status
        self.type = str(document.get("type", "about:blank"))
        self.title = str(document.get("title", reason))
        self.detail = str(document.get("detail", ""))
        self.errors = [FieldError(str(one["pointer"]), str(one["detail"])) for one in document.get("errors", ())]
        self.retry_after: float | None = None
        self.request_id: str | None = None
        self.tries = 1
        self.idempotency_key: str | None = None
        self.after_lost_answer = False
        self.effort = ""
        """What was tried, if it was tried more than once."""
        super().__init__()

    @property
    def lines(self) -> list[str]:
        """What is wrong, and where."""
        what = f"{self.status} {self.title}" + (f": {self.detail}" if self.detail else "")
        where = [f"  {one.pointer or '/'}: {one.detail}" for one in self.errors]
        return [what, *where, *([f"  {self.effort}"] if self.effort else [])]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class BadRequest(RequestProblem):
    """400"""


class NotAuthenticated(RequestProblem):
    """401"""


class NotPermitted(RequestProblem):
    """403"""


class NotThere(RequestProblem):
    """404"""


class ConflictingState(RequestProblem):
    """409, 412"""


class NoLongerThere(RequestProblem):
    """410"""


class ValidationFailed(RequestProblem):
    """422"""


class KeyUsedBefore(ValidationFailed):
    """422: the idempotency key was used for another request."""


class TooManyRequests(RequestProblem):
    """429"""


class ServiceUnavailable(RequestProblem):
    """502, 503, 504"""


BY_STATUS: dict[int, type[RequestProblem]] = {
    400: BadRequest, 401: NotAuthenticated, 403: NotPermitted, 404: NotThere, 409: ConflictingState,
    410: NoLongerThere, 412: ConflictingState, 422: ValidationFailed, 429: TooManyRequests,
    502: ServiceUnavailable, 503: ServiceUnavailable, 504: ServiceUnavailable,
}  # fmt: skip
"""Any other status is a plain `RequestProblem`."""

BY_TYPE: dict[str, type[RequestProblem]] = {"/problems/idempotency-key-reused": KeyUsedBefore}
"""Problems that share a status with another one. A service behind a prefix has it before them."""


class ServiceUnreachable(ClientError):
    """No answer came, `tries` times. `idempotency_key`: with it the same request can be sent again."""

    def __init__(self, text: str, tries: int, idempotency_key: str | None) -> None:
        super().__init__(text)
        self.tries = tries
        self.idempotency_key = idempotency_key


class UnexpectedAnswer(ClientError):
    """The answer is none of this service: wrong URL, or a proxy."""


class JobFailed(ClientError):
    """The job has failed, was cancelled or has expired. `failure_class` is the class of its error, else its status."""

    def __init__(self, job: "JobFields") -> None:
        error = job.error or {}
        self.job = job
        self.failure_class: str = error.get("class", job.status)
        self.message: str = error.get("message", "")
        self.attempt: int = error.get("attempt", job.attempt)
        because = f": {self.message}" if self.message else ""
        super().__init__(
            f"job {job.id} ({job.type}) {job.status}, {self.failure_class} at attempt {self.attempt}{because}"
        )


class WaitTimeout(ClientError, TimeoutError):
    """The job or batch, `waited_for`, has not ended in time. It goes on."""

    def __init__(self, waited_for: Any, seconds: float) -> None:
        super().__init__(f"{waited_for.id} has not finished within {seconds:g} s")
        self.waited_for = waited_for
