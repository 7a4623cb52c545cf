"""What the client makes of values, headers and functions, without a service."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import Enum
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from accepted import Context, Retry, job
from accepted.client import bodies
from accepted.client.exchange import LONGEST_PAUSE, backoff, retry_after
from accepted.client.fields import JobFields
from accepted.client.steps import ApiAnswer
from accepted.errors import ConfigurationError

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Order(BaseModel):
    number: int
    at: datetime = NOON
    kind: str = Field("book", serialization_alias="type")


@dataclasses.dataclass
class Parcel:
    id: UUID
    orders: list[Order]


class Colour(Enum):
    RED = "red"


@job("order.print")
async def print_order(payload: Order, ctx: Context) -> None: ...


def sent(value: object) -> object:
    return json.loads(bodies.encode(value))


def test_payloads_of_all_kinds_become_json() -> None:
    order = {"number": 7, "at": "2026-11-30T12:00:00Z", "type": "book"}
    body = bodies.job(print_order, Order(number=7), {"run_at": NOON, "retry": Retry(max_attempts=2), "queue": None})
    policy = {"max_attempts": 2, "schedule": [30, 300, 1800, 7200], "jitter": 0.2}
    assert sent(body) == {"type": "order.print", "payload": order, "run_at": "2026-11-30T12:00:00Z", "retry": policy}
    number = UUID(int=1)
    assert sent(Parcel(number, [Order(number=7)])) == {"id": str(number), "orders": [order]}
    assert sent({"colour": Colour.RED, "big": 2**70, "text": "\ud800"}) == {
        "colour": "red",
        "big": 2**70,
        "text": "\ud800",
    }


def test_what_is_no_json_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        bodies.encode({"n": float("nan")})
    with pytest.raises(TypeError, match="object is not JSON"):
        bodies.encode({"n": object()})
    with pytest.raises(ConfigurationError, match="sent' is no handler"):
        bodies.type_name(sent)


def test_filters_become_a_query() -> None:
    filters = {"status": ["failed", "expired"], "queue": None, "metadata": {"a": "b"}, "created_after": NOON}
    assert bodies.query(filters) == {
        "status": "failed,expired", "created_after": "2026-11-30T12:00:00+00:00", "metadata[a]": "b",
    }  # fmt: skip


def asked_for(text: str) -> float | None:
    return retry_after(ApiAnswer(503, "", "", {"retry-after": text}, b""))


def test_retry_after_is_seconds_or_a_date() -> None:
    assert asked_for("7") == 7
    in_ten_minutes = asked_for(format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True))
    assert in_ten_minutes is not None
    assert 580 <= in_ten_minutes <= 600
    assert asked_for(format_datetime(NOON - timedelta(days=3000), usegmt=True)) == 0


@pytest.mark.parametrize("text", ["", "soon", "-1", "1e9", "9" * 40, "²"])
def test_any_other_retry_after_is_none(text: str) -> None:
    assert asked_for(text) is None


def test_pauses_grow_to_a_bound() -> None:
    assert max(backoff(tries) for tries in range(1, 2000)) <= LONGEST_PAUSE
    assert backoff(1) < backoff(4) < backoff(7)


def test_a_listed_job_says_why_it_has_no_result() -> None:
    listed = JobFields(
        {"id": "1", "type": "noop", "status": "failed", "created_at": "2026-11-30T12:00:00.5Z", "error": None}
    )
    assert listed.created_at == NOON + timedelta(seconds=0.5)
    with pytest.raises(AttributeError, match="include='result', or call refresh"):
        _ = listed.result
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = listed.nothing
