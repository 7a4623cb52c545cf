"""pydantic's errors as pointers and words, without anything of the input."""

from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictInt, ValidationError

from accepted.errors import InvalidRequest, did_you_mean
from accepted.services.jobs.validation import invalid

CANARY = "CanaryValue7"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Backoff(Strict):
    max_attempts: StrictInt = 5
    schedule: list[float] = []


class Cat(Strict):
    kind: Literal["cat"]
    lives: int = 9


class Dog(Strict):
    kind: Literal["dog"]


class Sample(Strict):
    type: str
    priority: Annotated[StrictInt, Field(ge=0, le=9)] = 4
    retry: Backoff | None = None
    ids: list[UUID] = []
    many: list[Backoff] = []
    delay: int | float | None = None
    labels: dict[Annotated[str, Field(max_length=20)], int] = {}
    either: Cat | Dog | None = None
    tagged: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    at: AwareDatetime | None = None
    renamed: int = Field(0, alias="re/named")


def refusal(body: Any, prefix: str = "") -> InvalidRequest:
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(body)
    return invalid(caught.value, Sample, prefix)


def found(body: Any, prefix: str = "") -> dict[str, str]:
    return {error.pointer: error.detail for error in refusal(body, prefix).errors}


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"priority": CANARY}, "/priority"),
        ({"priority": True}, "/priority"),
        ({"priority": 99}, "/priority"),
        ({"retry": {"schedule": [1, CANARY]}}, "/retry/schedule/1"),
        ({"retry": [CANARY]}, "/retry"),
        ({"ids": [CANARY]}, "/ids/0"),
        ({"many": [{}, {"max_attempts": CANARY}]}, "/many/1/max_attempts"),
        ({"delay": CANARY}, "/delay"),
        ({"labels": {"a/b~c": CANARY}}, "/labels/a~1b~0c"),
        ({"labels": {"x" * 21: 1}}, "/labels/" + "x" * 21),
        ({"tagged": {"kind": CANARY}}, "/tagged"),
        ({"tagged": {"kind": "cat", "lives": CANARY}}, "/tagged/lives"),
        ({"at": CANARY}, "/at"),
        ({"at": "2026-11-23T19:00:00"}, "/at"),
        ({"re/named": CANARY}, "/re~1named"),
    ],
)
def test_points_at_the_field_and_echoes_nothing(fields: dict[str, Any], pointer: str) -> None:
    errors = found({"type": "noop"} | fields)
    assert list(errors) == [pointer]
    assert CANARY not in str(errors)


def test_labels_of_union_members_are_no_steps() -> None:
    assert set(found({"type": "noop", "either": {"kind": "cat", "lives": CANARY}})) == {
        "/either/lives",
        "/either/kind",
    }


def test_one_field_is_listed_once() -> None:
    assert found({"type": "x", "delay": "soon"}) == {
        "/delay": "must be a valid integer, unable to parse string as an integer"
        " or must be a valid number, unable to parse string as a number"
    }


def test_names_the_nearest_field_of_the_right_model() -> None:
    body = {"type": "noop", "priorty": 1, "retry": {"max_atempts": 3}, "re/nmed": 1, "zzz": 1}
    assert found(body) == {
        "/priorty": 'unknown field; did you mean "priority"?',
        "/retry/max_atempts": 'unknown field; did you mean "max_attempts"?',
        "/re~1nmed": 'unknown field; did you mean "re/named"?',
        "/zzz": "unknown field",
    }


def test_pointers_stand_under_the_prefix() -> None:
    assert found({}, "/jobs/3") == {"/jobs/3/type": "required"}
    assert found([], "/jobs/3") == {"/jobs/3": "must be a JSON object"}


def test_the_answer_stays_small() -> None:
    few = refusal({"type": "noop"} | {f"key{number}": CANARY for number in range(500)})
    assert len(few.errors) == 20
    many = refusal({"type": "noop"} | {f"key{number}": CANARY for number in range(5000)})
    assert [error.detail for error in many.errors] == ["more than 1000 errors"]
    long = refusal({"type": "noop", "k" * 100_000: 1})
    assert len(long.errors[0].pointer) <= 256


@given(st.text())
def test_nearest_is_one_of_the_known(name: str) -> None:
    hint = did_you_mean(name, ["priority", "payload"])
    assert hint in ("", '; did you mean "priority"?', '; did you mean "payload"?')


def test_nearest() -> None:
    assert did_you_mean("Priorty", ["priority", "payload"]) == '; did you mean "priority"?'
    assert did_you_mean("http.reqest", ["noop", "http.request"]) == '; did you mean "http.request"?'
    assert did_you_mean("x", ["priority"]) == ""
    assert did_you_mean("p" * 65, ["p" * 66]) == ""  # the comparison costs the square of the length
