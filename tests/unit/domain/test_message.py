"""The message on the broker: what is written is read back, and anything else is None, never an exception."""

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.references import JobRef, read_body

refs = st.builds(
    JobRef,
    job_id=st.uuids(),
    attempt=st.integers(0, 2**31 - 1),
    queue=st.just("q"),
    type=st.just("noop"),
    priority=st.integers(0, 9),
)
JOB = "01a20a5f-5eca-7433-9bac-af4993e68657"


@given(refs)
def test_what_is_written_is_read_back(ref: JobRef) -> None:
    found = read_body(ref.body())
    assert found is not None
    assert (found.v, found.id, found.attempt) == (1, ref.job_id, ref.attempt)


@given(refs)
def test_the_body_is_that_of_the_contract(ref: JobRef) -> None:
    assert json.loads(ref.body()) == {"v": 1, "id": str(ref.job_id), "attempt": ref.attempt}
    assert ref.message_id == f"{ref.job_id}:{ref.attempt}"


@given(st.binary(max_size=200))
def test_noise_is_none(body: bytes) -> None:
    assert read_body(body) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["v", "id", "attempt", "x"]), inner),
    max_leaves=12,
)


@given(json_values)
def test_json_of_another_shape_is_none(value: object) -> None:
    body = json.dumps(value, default=str).encode(errors="replace")
    found = read_body(body)
    if found is not None:
        assert isinstance(value, dict)
        assert set(value) == {"v", "id", "attempt"}
        assert found.v == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 200_000,
        b'{"v":2,"id":"%b","attempt":0}' % JOB.encode(),
        b'{"v":true,"id":"%b","attempt":0}' % JOB.encode(),
        b'{"v":"1","id":"%b","attempt":0}' % JOB.encode(),
        b'{"v":1,"id":"%b","attempt":-1}' % JOB.encode(),
        b'{"v":1,"id":"%b","attempt":2147483648}' % JOB.encode(),
        b'{"v":1,"id":"%b","attempt":0.5}' % JOB.encode(),
        b'{"v":1,"id":"%b","attempt":"0"}' % JOB.encode(),
        b'{"v":1,"id":"%b","attempt":null}' % JOB.encode(),
        b'{"v":1,"id":"%b"}' % JOB.encode(),
        b'{"v":1,"id":"%b","attempt":0,"tenant":"other"}' % JOB.encode(),
        b'{"v":1,"id":"%b","attempt":0} ' % JOB.encode() + b"x",
        b'{"v":1,"id":"not-a-uuid","attempt":0}',
        b'{"v":1,"id":7,"attempt":0}',
        b'\xef\xbb\xbf{"v":1,"id":"%b","attempt":0}' % JOB.encode(),
        (f'{{"v":1,"id":"{JOB}","attempt":0}}').encode("utf-16"),
    ],
)
def test_garbage_is_none(body: bytes) -> None:
    assert read_body(body) is None


@given(refs, st.none() | st.just("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
def test_every_message_has_a_valid_traceparent(ref: JobRef, given_one: str | None) -> None:
    ref = JobRef(ref.job_id, ref.attempt, "q", "noop", 4, given_one)
    version, trace, parent, flags = ref.trace.split("-")
    assert (len(version), len(trace), len(parent), len(flags)) == (2, 32, 16, 2)
    assert given_one is None or ref.trace == given_one


def test_a_reference_has_no_payload() -> None:
    body = JobRef(UUID(JOB), 0, "secret-queue", "secret.type", 9, None).body()
    assert b"secret" not in body
