"""A request until it is answered: which failures are tried again, when, and what is said in the end.

A request that may be repeated is one that only reads, one that has an Idempotency-Key (the service then makes one job
of it, however often it arrives), or an act that comes to the same when it is carried out twice. Any other is repeated
only where it was not carried out: the connection was not made, or the answer was 429.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from accepted.client.errors import (
    BY_STATUS,
    BY_TYPE,
    ConflictingState,
    NotPermitted,
    RequestProblem,
    ServiceUnreachable,
    UnexpectedAnswer,
)
from accepted.client.steps import ApiAnswer, ApiRequest, NoAnswer, Pause, Steps

NOT_CARRIED_OUT = 429
UNSURE = frozenset({502, 503, 504})
"""Statuses of which another try may do better. Whoever answers with one of `UNSURE` does not know what was done: a
proxy, or a service that has lost its ledger during a COMMIT."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 8.0
"""Seconds. The pause doubles with each try; half of it is random, so that clients do not return all at once."""

PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Limits:
    """A request is sent up to `tries` times; the last try begins within `seconds` after the first."""

    tries: int
    seconds: float


def exchange(request: ApiRequest, limits: Limits, within: float | None = None) -> Steps[ApiAnswer]:
    """The answer, unless it is a problem. `within` may shorten `limits.seconds`.

    Raises `RequestProblem` and `ServiceUnreachable`.
    """
    begun = time.monotonic()
    seconds = limits.seconds if within is None else min(within, limits.seconds)
    tries, unsure = 0, False
    while True:
        answer = yield request
        tries += 1
        if isinstance(answer, ApiAnswer) and answer.status < 400:
            return answer
        pause = _pause(answer, tries)
        spent = time.monotonic() - begun
        if not _may_repeat(request, answer) or tries >= limits.tries or spent + pause > seconds:
            raise _failure(request, answer, tries, spent, unsure)
        unsure = unsure or _may_be_carried_out(answer)
        yield Pause(pause)


def ask(request: ApiRequest, limits: Limits, within: float | None = None) -> Steps[dict[str, Any]]:
    """The JSON object of the answer. Raises `UnexpectedAnswer` too."""
    return body_of((yield from exchange(request, limits, within)))


def submitted(request: ApiRequest, limits: Limits) -> Steps[dict[str, Any]]:
    """The job or batch that was made. Raises `UnexpectedAnswer` for anything else, as a wrong address may answer."""
    made = yield from ask(request, limits)
    if "id" not in made:
        raise UnexpectedAnswer(f"{request.method} {request.path}: the answer has no id: this is not Accepted")
    return made


def acted(
    request: ApiRequest, limits: Limits, path: str, done: Callable[[dict[str, Any]], bool]
) -> Steps[dict[str, Any]]:
    """The answer to an act on what is at `path`.

    An act whose answer was lost is refused when it is repeated, because it is done: then the answer is what is there
    now, if that is `done`. Raises `ConflictingState` for any other refusal.
    """
    try:
        return (yield from ask(request, limits))
    except ConflictingState as refused:
        now = (yield from look(path, limits)) if refused.after_lost_answer else None
        if now is None or not done(body_of(now)):
            raise
        return body_of(now)


def look(path: str, limits: Limits) -> Steps[ApiAnswer | None]:
    """What is there; None if the key may act and not read."""
    try:
        return (yield from exchange(ApiRequest("GET", path), limits))
    except NotPermitted:
        return None


def body_of(answer: ApiAnswer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UnexpectedAnswer(f"{answer.url}: {answer.status} without a JSON object: this is not Accepted")
    return body


def retry_after(answer: ApiAnswer) -> float | None:
    """Seconds until the service wants to be asked again: a number or a date (RFC 9110 section 10.2.3)."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def backoff(tries: int) -> float:
    """Seconds to wait after so many tries."""
    return min(FIRST_PAUSE * 2.0 ** min(tries - 1, 30), LONGEST_PAUSE) * random.uniform(0.5, 1)


def _pause(answer: ApiAnswer | NoAnswer, tries: int) -> float:
    asked_for = retry_after(answer) if isinstance(answer, ApiAnswer) else None
    return max(asked_for or 0.0, backoff(tries))


def _may_repeat(request: ApiRequest, answer: ApiAnswer | NoAnswer) -> bool:
    passing = isinstance(answer, NoAnswer) or answer.status in UNSURE or answer.status == NOT_CARRIED_OUT
    return passing and (request.repeatable or not _may_be_carried_out(answer))


def _may_be_carried_out(answer: ApiAnswer | NoAnswer) -> bool:
    return answer.sent if isinstance(answer, NoAnswer) else answer.status in UNSURE


def _failure(
    request: ApiRequest, answer: ApiAnswer | NoAnswer, tries: int, spent: float, unsure: bool
) -> RequestProblem | ServiceUnreachable:
    effort = f"gave up after {tries} tries in {spent:.1f} s" if tries > 1 else ""
    if effort and request.key:
        effort += f"; send it again with the idempotency key {request.key}"
    if isinstance(answer, NoAnswer):
        return ServiceUnreachable("\n  ".join(filter(None, [answer.reason, effort])), tries, request.key)
    problem = problem_of(answer)
    problem.effort, problem.tries, problem.idempotency_key = effort, tries, request.key
    problem.after_lost_answer = unsure
    return problem


def problem_of(answer: ApiAnswer) -> RequestProblem:
    """The error of a problem document; of any other answer, such as a proxy's, one that has the status alone."""
    is_problem = answer.headers.get("content-type", "").startswith(PROBLEM)
    document = body_of(answer) if is_problem else {}
    kind = _kind(answer.status, str(document.get("type", "")))
    problem = kind(answer.status, answer.reason, document)
    problem.retry_after = retry_after(answer)
    problem.request_id = answer.headers.get("x-request-id")
    return problem


def _kind(status: int, problem_type: str) -> type[RequestProblem]:
    for ending, kind in BY_TYPE.items():
        if problem_type.endswith(ending):
            return kind
    return BY_STATUS.get(status, RequestProblem)
