"""Lease tokens: read back as written; other text is no token."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.references import Lease, read_token


@given(st.uuids(), st.integers(1, 2**31 - 1), st.uuids())
def test_there_and_back(job_id: UUID, attempt: int, worker_id: UUID) -> None:
    lease = Lease(job_id, attempt, worker_id)
    assert len(lease.token) == 48
    assert read_token(lease.token) == lease


@given(st.text(max_size=60))
def test_anything_else_is_none(token: str) -> None:
    lease = read_token(token)
    assert lease is None or lease.token == token


@pytest.mark.parametrize("token", ["", "A" * 48, "A" * 47, "A" * 49, "_" * 48, "A" * 47 + "=", "A" * 47 + "\n"])
def test_no_attempt_has_such_a_number(token: str) -> None:
    assert read_token(token) is None
