"""What a handler and a step may return."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pytest
from pydantic import BaseModel

from accepted.domain.failures import InvalidJob
from accepted_worker.attempt.values import child_of, result_of, step_name, step_result_of


@dataclass
class Measured:
    mean: float
    worst: float | None = None


class Picture(BaseModel):
    taken: datetime | None = None
    scale: float = 1.0


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": None},
        [1.5, None],
        "null",
        Measured(1.0),
        msgspec.Raw(b"null"),
        [msgspec.Raw(b'{"a":null}')],
        {"of": [Picture()]},
    ],
)
def test_json_is_kept(value: object) -> None:
    assert "null" in result_of(value, 100)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [{"b": float("inf")}]},
        (None, float("-inf")),
        Measured(float("nan")),
        Picture(scale=float("inf")),
    ],
)
def test_numbers_that_json_does_not_have_are_refused(value: object) -> None:
    with pytest.raises(InvalidJob, match="NaN or Infinity"):
        result_of(value, 100)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "it holds an object of type object"),
        ({"a": [1j]}, "it holds an object of type complex"),
        ({(1, 2): 3}, "it holds an object of type tuple"),
        ("\ud800", "UnicodeEncodeError"),
    ],
)
def test_a_value_that_is_not_json_is_refused(value: object, what: str) -> None:
    with pytest.raises(InvalidJob, match=f"^the result is not JSON: {what}$"):
        result_of(value, 100)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_child_has_no_such_numbers_either(number: float) -> None:
    with pytest.raises(InvalidJob, match="child of this job is not JSON: it holds NaN"):
        child_of({"type": "noop", "payload": {"a": [None, number]}})
    assert child_of({"payload": {"a": None, "b": Picture()}}) == {
        "payload": {"a": None, "b": {"taken": None, "scale": 1.0}}
    }


def test_a_pydantic_model_is_its_json() -> None:
    assert (
        result_of(Picture(taken=datetime(2026, 1, 1, tzinfo=UTC)), 100)
        == '{"taken":"2026-01-01T00:00:00Z","scale":1.0}'
    )


def test_a_step_may_return_what_a_job_may_return() -> None:
    assert step_result_of("s", Picture(), 100) == result_of(Picture(), 100)
    with pytest.raises(InvalidJob, match="step 's' is not JSON: it holds NaN"):
        step_result_of("s", [float("nan")], 100)


def test_a_value_that_is_too_large_is_not_searched() -> None:
    with pytest.raises(InvalidJob, match="the result is larger than 9 bytes"):
        result_of([math.nan] * 10, 9)


def test_a_step_has_the_name_of_anything_printable() -> None:
    assert step_name("charge 👩\u200d👧 می\u200cخواهم")
    for name in ("a\u202eb", "a\nb", "a\x7f", "\ud800"):
        with pytest.raises(ValueError, match="printable"):
            step_name(name)
