"""What messages of failures that are alike have in common."""

import time

import pytest

from accepted.domain.failures import pattern


@pytest.mark.parametrize(
    ("message", "common"),
    [
        ("order 7 of 0198f1c2-7d5e-7cc3-98c4-dc0c0c073980 at 0xAf", "order … of … at …"),
        ("the target answered 410", "the target answered 410"),
        ("http/1.1 400: order 17", "http/….… 400: order …"),
        ("status code: 503", "status code: 503"),
        ("status 1234, exit status 7, answered 4100 of 4", "status …, exit status …, answered … of …"),
        ("no", "no"),
    ],
)
def test_numbers_and_ids_are_put_aside_but_not_a_status(message: str, common: str) -> None:
    assert pattern(message) == common


@pytest.mark.parametrize("part", ["HTTP/1.1 599 7", "HTTP/1.", "a1b2c3d4-", "0x", "status code ", "1", "a"])
def test_no_message_takes_long(part: str) -> None:
    """A handler chooses it, and others wait for the worker's event loop meanwhile. Ten times what the longest takes."""
    message = (part * 2000)[:2000]
    start = time.process_time()
    for _ in range(10):
        pattern(message)
    assert time.process_time() - start < 0.1
