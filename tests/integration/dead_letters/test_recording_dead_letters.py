"""running -> failed writes a dead letter, in the same statement, whatever the failure."""

from collections.abc import Callable

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import ALERT_TYPE
from accepted.domain.transitions import RunningAttempt, Transition
from tests.support.ledger.jobs import apply, claim, put, running_attempt
from tests.support.ledger.sql import rows


async def running(engine: AsyncEngine, type: str = "noop") -> RunningAttempt:
    await put(engine, tenant="acme", type=type, queue="work")
    (claimed,) = await claim(engine, 1, queue="work")
    return running_attempt(claimed)


def worn_out(one: RunningAttempt) -> RunningAttempt:
    return msgspec.structs.replace(one, max_attempts=1, crashes=2)


DEADLY: dict[str, Callable[[RunningAttempt], Transition]] = {
    "invalid": lambda one: transitions.failed(one, FailureClass.INVALID, 'said "no"\n\0', 0.0),
    "transient": lambda one: transitions.failed(worn_out(one), FailureClass.TRANSIENT, "ü" * 9000, 0.0),
    "crashed": lambda one: transitions.crashed(worn_out(one), 0.0),
    "unrecordable": transitions.unrecordable,
}


@pytest.mark.parametrize("transition", DEADLY.values(), ids=DEADLY)
async def test_a_failed_job_is_a_dead_letter(
    engine: AsyncEngine, transition: Callable[[RunningAttempt], Transition]
) -> None:
    one = await running(engine)
    assert await apply(engine, transition(one)) == [True]
    (job,) = await rows(engine, "SELECT * FROM jobs")
    (letter,) = await rows(engine, "SELECT * FROM dead_letters")
    assert job["status"] == "failed"
    assert dict(letter) == {
        "job_id": one.job_id, "tenant": "acme", "queue": "work", "type": "noop", "class": job["error"]["class"],
        "message": job["error"]["message"], "failed_at": job["finished_at"], "alerted_at": None,
        "group_key": letter["group_key"],
    }  # fmt: skip


LIVELY: dict[str, Callable[[RunningAttempt], Transition]] = {
    "succeeded": lambda one: transitions.succeeded(one, "{}"),
    "retrying": lambda one: transitions.failed(one, FailureClass.TRANSIENT, "x", 0.0),
    "crashed": lambda one: transitions.crashed(one, 0.0),
    "handed back": transitions.handed_back,
}


@pytest.mark.parametrize("transition", LIVELY.values(), ids=LIVELY)
async def test_any_other_outcome_leaves_no_letter(
    engine: AsyncEngine, transition: Callable[[RunningAttempt], Transition]
) -> None:
    assert await apply(engine, transition(await running(engine))) == [True]
    assert await rows(engine, "SELECT * FROM dead_letters") == []


async def test_a_failed_delivery_is_a_dead_letter_too(engine: AsyncEngine) -> None:
    one = await running(engine, "webhook.deliver")
    await apply(engine, transitions.failed(one, FailureClass.INVALID, "410", 0.0))
    (letter,) = await rows(engine, "SELECT * FROM dead_letters")
    assert (letter["type"], letter["alerted_at"]) == ("webhook.deliver", None)


async def test_a_failed_alert_is_one_that_nobody_is_alerted_of(engine: AsyncEngine) -> None:
    one = await running(engine, ALERT_TYPE)
    await apply(engine, transitions.failed(one, FailureClass.INVALID, "410", 0.0))
    (letter,) = await rows(engine, "SELECT * FROM dead_letters")
    assert letter["alerted_at"] is not None
