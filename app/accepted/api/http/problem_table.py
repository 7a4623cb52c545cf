"""Every problem that this service answers with: its slug, status, title, and the text of its page.

The only module with status codes for errors. `accepted.api.http.problems` makes answers of its rows.
"""

from dataclasses import dataclass, field

from accepted import errors
from accepted.errors import AcceptedError


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error. `meaning` is also the detail of an answer that has no detail of its own."""

    slug: str
    status: int
    title: str
    meaning: str
    remedy: str
    headers: dict[str, str] = field(default_factory=dict)


PROBLEMS: dict[type[AcceptedError], Problem] = {
    errors.MalformedRequest: Problem(
        "malformed-request", 400, "The request cannot be read",
        "The body is not strict JSON (NaN, duplicate keys, broken characters), or a header is malformed, or there is "
        "not exactly one Host.",
        "Send strict JSON; the detail says where reading stopped. Every request has one Host, those of HTTP/1.0 too.",
    ),
    errors.InvalidRequest: Problem(
        "invalid-request", 422, "A field is wrong",
        "The request is well-formed, but a field is missing, unknown, or out of range.",
        "Each of the errors has a JSON pointer to a field and says what is expected there.",
    ),
    errors.KeyReused: Problem(
        "idempotency-key-reused", 422, "The idempotency key was used for another request",
        "An idempotency key stands for one request, and this request differs from the first one with that key.",
        "Use a new key for a new request; send a retry exactly like the first try.",
    ),
    errors.UnsupportedMedia: Problem(
        "unsupported-media-type", 415, "The type of the body is not supported",
        "Bodies are application/json in UTF-8 (or NDJSON where documented) and not compressed.",
        "Send Content-Type: application/json, and no Content-Encoding.",
    ),
    errors.TooLarge: Problem(
        "too-large", 413, "The body is too large",
        "The body, or one payload in it, is over its limit.",
        "Store large data elsewhere and put a reference into the payload, or split the batch.",
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
    errors.CrossSite: Problem(
        "cross-site", 403, "A web page of another site has sent this",
        "Authentication is off, so this service refuses whatever a browser sends for a page of another origin.",
        "Call it from a program or from its own pages, or switch authentication on (ACCEPTED_AUTH=required).",
    ),
    errors.Misdirected: Problem(
        "misdirected", 421, "This is not the host that was asked for",
        "Authentication is off, so this service answers only under loopback names, its own address, and "
        "ACCEPTED_ALLOWED_HOSTS. Any other name may have been pointed here by a web page.",
        "Use http://localhost or http://127.0.0.1, or add the host to ACCEPTED_ALLOWED_HOSTS.",
    ),
    errors.ResourceNotFound: Problem(
        "not-found", 404, "Not found",
        "Nothing that this API key may see is at this address.",
        "Check the path and the id. An API key sees only what belongs to its tenant.",
    ),
    errors.Gone: Problem(
        "gone", 410, "It is past its retention",
        "It existed, and was deleted when its retention ended.",
        "Fetch results earlier, receive them by webhook, or set a longer retention.",
    ),
    errors.QuotaExceeded: Problem(
        "quota-exceeded", 429, "The quota is used up",
        "The tenant has submitted as many jobs as its quota allows for now. This request made no job.",
        "Repeat the request after Retry-After. RateLimit says how many jobs are left, and when there is one more.",
        {"Retry-After": "1"},
    ),
    errors.QueueFull: Problem(
        "queue-full", 429, "The queue is full",
        "As many jobs of this tenant wait on this queue as its max_depth allows. This request made no job.",
        "Repeat the request after Retry-After, with the same Idempotency-Key, or use another queue.",
        {"Retry-After": "5"},
    ),
    errors.UploadsFull: Problem(
        "uploads-full", 429, "Too many uploads are under way",
        "The batches in NDJSON that this tenant is sending take as much disk space as they leave to others. This "
        "request made no job.",
        "Repeat the request after Retry-After, with the same Idempotency-Key, when other uploads have ended; or send "
        "smaller batches, one after the other.",
        {"Retry-After": "15"},
    ),
    errors.NoRoom: Problem(
        "no-room", 503, "The disk for uploads is full",
        "There is no space to keep the batch until its last line has arrived. This request made no job.",
        "Repeat the request after Retry-After, with the same Idempotency-Key, or send smaller batches: one of less "
        "than 256 KiB needs no disk.",
        {"Retry-After": "15"},
    ),
    errors.Conflict: Problem(
        "conflict", 409, "Its state does not allow this",
        "The operation is not possible in the present state of the job, batch or lease.",
        "Fetch it again: it may have changed since you last read it.",
    ),
    errors.PreconditionFailed: Problem(
        "precondition-failed", 412, "It is not as If-Match says",
        "The request came with If-Match, and what it is about does not exist, or has changed since it had that ETag.",
        "Fetch it again, and look at what it has become. A queue is made without If-Match.",
    ),
    errors.LedgerUnavailable: Problem(
        "ledger-unavailable", 503, "The ledger cannot be reached",
        "The database is away, refuses us, or lacks our tables. No part of this request was carried out halfway.",
        "Repeat the request after Retry-After, with the same Idempotency-Key. GET /readyz says what is wrong.",
        {"Retry-After": "5"},
    ),
    errors.BrokerUnavailable: Problem(
        "broker-unavailable", 503, "The broker cannot be reached",
        "RabbitMQ did not answer in time. Jobs are accepted meanwhile, and run once it is back.",
        "Repeat the request after Retry-After.",
        {"Retry-After": "5"},
    ),
}  # fmt: skip
"""A subclass without a row has the row of its nearest base class."""

INTERNAL = Problem(
    "internal-error", 500, "Something went wrong here",
    "An unexpected error of this service. It is in the log.",
    "Repeat the request with the same Idempotency-Key; if it happens again, report it.",
)  # fmt: skip

BEFORE_ROUTING = [
    *(PROBLEMS[error] for error in (errors.MalformedRequest, errors.CrossSite, errors.Misdirected)),
    Problem("request-timeout", 408, "The request took too long to arrive",
            "Headers and body must arrive within 30 seconds; of NDJSON, each line, and all of them within an hour.",
            "Send the request faster, or in several smaller ones."),
    Problem("uri-too-long", 414, "The address is too long",
            "Path and query together are over the limit.", "Shorten the query."),
    Problem("headers-too-large", 431, "The headers are too large",
            "All header fields together are over the limit.", "Send fewer or shorter headers."),
]  # fmt: skip
"""Answers to any request, given before its route is known."""

HTTP_PROBLEMS = [
    Problem("method-not-allowed", 405, "The method is not allowed here",
            "The address exists, but not for this method.", "The Allow header lists the methods."),
    *(problem for problem in BEFORE_ROUTING if problem not in PROBLEMS.values()),
    INTERNAL,
]  # fmt: skip
"""Answers of the HTTP layer, without an `AcceptedError`."""
