"""Tests of the shop's handlers: no service is needed."""

from accepted.testing import run
from shop.handlers import pay, send


def test_an_order_of_nothing_is_a_dead_letter() -> None:
    assert run(pay, {"number": 1, "cents": 0}).failure_class == "invalid"


def test_an_order_is_charged_once() -> None:
    outcome = run(pay, {"number": 1, "cents": 1999}, attempt=2, steps={"charge": "R-1"})
    assert outcome.progress == {"percent": 10, "message": "charging"}
    assert outcome.steps == {"charge": "R-1"}, "then it needs the database, of which `run` has none"


def test_a_receipt_is_sent() -> None:
    (line,) = run(send, {"number": 1, "receipt": "R-1"}).logs
    assert (line.message, line.fields) == ("sent", {"number": 1, "receipt": "R-1"})
