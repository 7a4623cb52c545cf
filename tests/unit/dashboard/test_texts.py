"""How pages write the sentences of the API."""

from datetime import UTC, datetime

import pytest

from accepted.dashboard.texts import clock, editable, told

AT = "2026-11-30T14:05:09.400Z"


@pytest.mark.parametrize(
    ("sentence", "marked"),
    [
        (f"Nothing is sent before {AT}: see `accepted targets`.", [("time", AT), ("code", "accepted targets")]),
        (f"a ` alone, and {AT}", [("time", AT)]),
        ("It failed: not before 2026-19-39T77:00:00Z", []),
        ("``", []),
    ],
)
def test_a_sentence_is_all_there_in_pieces(sentence: str, marked: list[tuple[str, str]]) -> None:
    """It may quote the text of an error, so it may hold anything."""
    pieces = told(sentence)
    assert "".join(f"`{part}`" if kind == "code" else part for kind, part in pieces) == sentence
    assert [(kind, part) for kind, part in pieces if kind] == marked


def test_the_time_of_a_sentence_has_its_day_unless_that_is_today() -> None:
    today, tomorrow = datetime(2026, 11, 30, 1, tzinfo=UTC), datetime(2026, 12, 1, 1, tzinfo=UTC)
    assert (clock(AT, today), clock(AT, tomorrow)) == ("14:05:09 UTC", "2026-11-30 14:05 UTC")


def test_json_is_indented_if_there_is_room() -> None:
    assert editable(b'{"a":1}', 12) == '{\n  "a": 1\n}'
    assert editable(b'{"a":1}', 11) == '{"a":1}'
