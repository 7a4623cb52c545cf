"""What a receiver answers: what is kept of it, and what it means for the delivery."""

import pytest

from accepted.context import HttpAnswer
from accepted.domain.failures import HandlerError, InvalidJob, RateLimited, TransientError
from accepted_worker.attempt.values import result_of
from accepted_worker.handlers.webhooks import KEPT, judge, result, shown


def answer(status: int = 200, body: bytes = b"", *headers: tuple[str, str]) -> HttpAnswer:
    """As `Egress` gives it when it is told to keep `KEPT` bytes."""
    return HttpAnswer(status, list(headers), body[:KEPT], len(body) > KEPT)


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b"", ""),
        (b"x" * 1024, "x" * 1024),
        (b"x" * 1025, "x" * 1024),
        (b"x" + "é".encode() * 600, "x" + "é" * 511),
        ("😀".encode() * 300, "😀" * 256),
        (b"x\xff\0y", "x�\0y"),
        ("é".encode()[:1], "�"),
    ],
)
def test_the_first_1024_bytes_are_kept_as_text(body: bytes, kept: str) -> None:
    """A character that the cut went through is left out; one that the receiver itself broke is shown as broken."""
    assert shown(answer(503, body)) == {"status_code": 503, "body": kept}


@pytest.mark.parametrize("body", [b"", b"x" * 1024, b"\x01" * 1024, "\u00e9\0".encode() * 400])
def test_the_result_fits_as_json(body: bytes) -> None:
    given = answer(200, body)
    whole, kept = shown(given)["body"], result(given, 1024)["body"]
    assert whole.startswith(kept)
    size = len(result_of(result(given, 1024), 1024).encode())
    assert size > 1024 - 8 or kept == whole
    assert result(given, 10_000) == shown(given)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_is_a_delivery(status: int) -> None:
    judge(answer(status))


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        (answer(410), InvalidJob),
        (answer(503, b"", ("Retry-After", "7")), RateLimited),
        (answer(503, b"", ("Retry-After", "soon")), TransientError),
        (answer(500), TransientError),
        (answer(302), TransientError),
        (answer(404), TransientError),
    ],
)
def test_anything_else_is_none(given: HttpAnswer, failure: type[HandlerError]) -> None:
    with pytest.raises(failure) as raised:
        judge(given)
    assert raised.value.retry_after == (7 if failure is RateLimited else None)
