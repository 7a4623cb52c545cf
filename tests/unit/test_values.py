"""What a handler may return."""

from dataclasses import dataclass

import msgspec
import pytest

from app.domain.failures import InvalidJob
from workers.values import result_of


@dataclass
class Measured:
    mean: float
    worst: float | None = None


@pytest.mark.parametrize(
    "value", [None, {"a": None}, [1.5, None], "null", Measured(1.0), msgspec.Raw(b"null"), [msgspec.Raw(b'{"a":null}')]]
)
def test_json_is_kept(value: object) -> None:
    assert "null" in result_of(value, 100)


@pytest.mark.parametrize(
    "value", [float("nan"), {"a": [{"b": float("inf")}]}, (None, float("-inf")), Measured(float("nan"))]
)
def test_numbers_that_json_has_not_are_refused(value: object) -> None:
    with pytest.raises(InvalidJob, match="NaN or Infinity"):
        result_of(value, 100)


@pytest.mark.parametrize("value", [object(), {"a": object()}, 1j])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidJob, match="not JSON"):
        result_of(value, 100)
