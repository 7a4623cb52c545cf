"""Every kind of problem that this service answers with: its slug, status, title, and what to tell people.

The only place with status codes for errors; `accepted.api.http.problems` turns its rows into answers.
"""

from dataclasses import dataclass, field

from accepted import errors
from accepted.errors import AcceptedError


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error as clients and people see it. `meaning` also stands in for a missing detail."""

    slug: str
    status: int
    title: str
    meaning: str
    remedy: str
    headers: dict[str, str] = field(default_factory=dict)


PROBLEMS: dict[type[AcceptedError], Problem] = {
    errors.MalformedRequest: Problem(
        "malformed-request", 400, "The request cannot be read",
        "The body is no strict JSON (NaN, duplicate keys, broken characters), or a header is broken.",
        "Send what a strict JSON writer makes; the detail says where reading stopped.",
    ),
    errors.InvalidRequest: Problem(
        "invalid-request", 422, "A field is wrong",
        "The request is well-formed, but a field is missing, unknown, or outside of what is allowed.",
        "The errors list a JSON pointer to each field and what is expected there.",
    ),
    errors.KeyReused: Problem(
        "idempotency-key-reused", 422, "The idempotency key was used for another request",
        "An idempotency key stands for one request, and this one differs from the first that came with it.",
        "Use a new key for a new request; send a retry exactly as the first try.",
    ),
    errors.UnsupportedMedia: Problem(
        "unsupported-media-type", 415, "The body is not of a type that is read here",
        "Bodies are application/json in UTF-8 (or NDJSON where documented) and not compressed.",
        "Send Content-Type: application/json, and no Content-Encoding.",
    ),
    errors.TooLarge: Problem(
        "too-large", 413, "The body is too large",
        "The body, or one payload in it, is over its limit.",
        "Keep large data elsewhere and put a reference to it into the payload, or split the batch.",
    ),
    errors.Unauthenticated: Problem(
        "unauthenticated", 401, "No valid API key",
        "The request has no API key, or one that is unknown, expired or revoked.",
        "Send Authorization: Bearer acc_… with a key from `accepted keys create`.",
        {"WWW-Authenticate": "Bearer"},
    ),
    errors.Forbidden: Problem(
        "forbidden", 403, "The API key may not do this",
        "The API key is valid, but lacks the scope that this operation needs.",
        "Use a key that was created with that scope.",
    ),
    errors.ResourceNotFound: Problem(
        "not-found", 404, "There is no such thing",
        "Nothing that you may see is at this address.",
        "Check the path and the id. Ids belong to the tenant of the API key.",
    ),
    errors.Gone: Problem(
        "gone", 410, "It is past its retention",
        "It was here once, and has been deleted since, as finished jobs are.",
        "Fetch results earlier, receive them by webhook, or raise the retention.",
    ),
    errors.QuotaExceeded: Problem(
        "quota-exceeded", 429, "The quota is used up",
        "The tenant has submitted as many jobs as its quota allows for now. No job was made of this request.",
        "Repeat the request after Retry-After. RateLimit says how many jobs are left, and when there is one more.",
        {"Retry-After": "1"},
    ),
    errors.QueueFull: Problem(
        "queue-full", 429, "The queue is full",
        "As many jobs wait on this queue as its max_depth lets. No job was made of this request.",
        "Repeat the request after Retry-After, with the same Idempotency-Key, or use another queue.",
        {"Retry-After": "5"},
    ),
    errors.Conflict: Problem(
        "conflict", 409, "Its state does not allow this",
        "What you asked for cannot be done to it in the state that it is in.",
        "Look at it again: it may have changed since you last did.",
    ),
    errors.LedgerUnavailable: Problem(
        "ledger-unavailable", 503, "The ledger cannot be reached",
        "The database did not answer in time. Nothing of this request is half-done.",
        "Repeat the request after Retry-After, with the same Idempotency-Key.",
        {"Retry-After": "5"},
    ),
    errors.BrokerUnavailable: Problem(
        "broker-unavailable", 503, "The broker cannot be reached",
        "RabbitMQ did not answer in time. Jobs are accepted and run all the same once it is back.",
        "Repeat the request after Retry-After.",
        {"Retry-After": "5"},
    ),
}  # fmt: skip
"""The nearest class up the tree counts, so a subclass needs a row only when it means something else."""

INTERNAL = Problem(
    "internal-error", 500, "Something went wrong here",
    "An error on our side that we did not foresee. It is in the log.",
    "Repeat the request with the same Idempotency-Key; if it happens again, report it.",
)  # fmt: skip

UNHEARD = [
    Problem("request-timeout", 408, "The request took too long to arrive",
            "Headers and body must arrive within 30 seconds.", "Send it in one go, or in parts."),
    Problem("uri-too-long", 414, "The address is too long",
            "Path and query together are over the limit.", "Shorten the query; page with the cursor."),
    Problem("headers-too-large", 431, "The headers are too large",
            "All header fields together are over the limit.", "Send fewer or shorter headers."),
]  # fmt: skip
"""What any request may be answered before anybody has looked at what it asks for."""

HTTP_PROBLEMS = [
    Problem("method-not-allowed", 405, "The method is not allowed here",
            "The address exists, but not for this method.", "The Allow header lists the methods."),
    *UNHEARD,
    INTERNAL,
]  # fmt: skip
"""What the HTTP layer answers by itself, without an error of our tree."""
