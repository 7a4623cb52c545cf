"""A cursor is valid only for the list that it was made for."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from accepted.domain.cursor import (
    _seal,
    read,
    read_moment,
    read_number,
    read_text,
    write,
    write_moment,
    write_number,
)


@given(st.uuids(), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_written_is_read_back(last: UUID, scope: str) -> None:
    assert read(write(last, scope), scope) == last


@given(st.uuids(), st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_a_cursor_of_another_list_is_refused(last: UUID, scope: str, other: str) -> None:
    assume(scope != other)
    with pytest.raises(ValueError, match="cursor"):
        read(write(last, scope), other)


@example(UUID("c9d3d5fb-2d47-be6f-f8cc-23cf7747a2ea"), 10, "/")  # what base64 without -_ has for the _ there
@given(st.uuids(), st.integers(0, 31), st.characters())
def test_a_changed_cursor_is_refused(last: UUID, place: int, letter: str) -> None:
    cursor = write(last, "a")
    changed = cursor[:place] + letter + cursor[place + 1 :]
    assume(changed != cursor)
    with pytest.raises(ValueError):  # noqa: PT011  (of base64, of the encoding or of ours)
        read(changed, "a")


@given(st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)), st.uuids(), st.text(st.characters(codec="utf-8")))
def test_a_moment_is_read_back(at: datetime, last: UUID, scope: str) -> None:
    cursor = write_moment(at, last, scope)
    assert read_moment(cursor, scope) == (at, last)
    with pytest.raises(ValueError, match="cursor"):
        read(cursor, scope)


@given(st.integers(0, 2**31 - 1), st.text(st.characters(codec="utf-8")))
def test_a_number_is_read_back(last: int, scope: str) -> None:
    cursor = write_number(last, scope)
    assert read_number(cursor, scope) == last
    with pytest.raises(ValueError, match="cursor"):
        read(cursor, scope)


def test_a_forged_number_that_is_no_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="cursor"):
        read_number(_seal(b"\xff" * 4, "a"), "a")


def test_a_forged_moment_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="cursor"):
        read_moment(_seal(b"\xff" * 24, "a"), "a")


def test_a_forged_name_that_postgresql_cannot_store_is_refused() -> None:
    with pytest.raises(ValueError, match="cursor"):
        read_text(_seal(b"a\0b", "a"), "a")


@given(st.text())
def test_noise_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read(text, "a")


def test_a_cursor_fits_a_query_as_it_is() -> None:
    assert all(letter.isalnum() or letter in "-_" for letter in write(UUID(int=2**128 - 1), "x"))
