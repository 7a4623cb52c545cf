"""`progress`: what it refuses, and what it makes of a message."""

import json
from typing import Any

import pytest

from accepted.domain.job import MAX_PROGRESS_MESSAGE, progress_json


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan"), float("inf"), True, "40", None])
def test_percent_is_a_number_from_0_to_100(percent: Any) -> None:
    with pytest.raises(ValueError, match="from 0 to 100"):
        progress_json(percent)


@pytest.mark.parametrize("percent", [0, 100, 33.3])
def test_as_json(percent: float) -> None:
    assert json.loads(progress_json(percent, "so far")) == {"percent": percent, "message": "so far"}


def test_a_message_is_cut_and_made_storable() -> None:
    message = json.loads(progress_json(1, "\0\ud800" + "x" * 1000))["message"]
    assert message == "�?" + "x" * (MAX_PROGRESS_MESSAGE - 2)
