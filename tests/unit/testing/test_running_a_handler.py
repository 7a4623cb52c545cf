"""`accepted.testing.run`: an attempt without a ledger has the outcome that a worker would record."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

import accepted.testing
from accepted import AuthError, Context, InvalidJob, NotFound, RateLimited, Retry, job
from accepted.context import HttpAnswer
from accepted.errors import ConfigurationError

run = accepted.testing.run


class Order(BaseModel):
    number: int
    due: date = date(2026, 12, 1)


CHARGED: list[int] = []


def charge(number: int) -> tuple[str, int]:
    CHARGED.append(number)
    return "receipt", number


def of_order(order: Order, ctx: Context) -> dict[str, Any]:
    ctx.progress(10, "charging")
    receipt = ctx.step("charge", charge, order.number)
    child = ctx.submit("receipt.send", {"order": order.number}, delay=5, tags=["x"], metadata={"a": "b"})
    ctx.progress(90, "done")
    ctx.log.info("paid", receipt=receipt)
    logging.getLogger("shop").warning("a library warns")
    ctx.log.debug("not kept")
    return {"receipt": receipt, "load": ctx.results["load"], "attempt": ctx.job.attempt, "child": str(child)}


async def of_order_async(order: Order, ctx: Context) -> dict[str, Any]:
    await ctx.progress(10, "charging")
    receipt = await ctx.step("charge", charge, order.number)
    child = await ctx.submit("receipt.send", {"order": order.number}, delay=5, tags=["x"], metadata={"a": "b"})
    await ctx.progress(90, "done")
    ctx.log.info("paid", receipt=receipt)
    logging.getLogger("shop").warning("a library warns")
    ctx.log.debug("not kept")
    return {"receipt": receipt, "load": ctx.results["load"], "attempt": ctx.job.attempt, "child": str(child)}


plain, asynchronous = job("order.plain")(of_order), job("order.async")(of_order_async)


@job("order.process", runs_in="process")
def in_process(order: Order, ctx: Context) -> dict[str, Any]:
    return of_order(order, ctx)


@job("order.process.async", runs_in="process")
async def in_process_async(order: Order, ctx: Context) -> dict[str, Any]:
    return await of_order_async(order, ctx)


class Receipt(BaseModel):
    order: int


@job("receipt.send", queue="mails")
def send(receipt: Receipt, ctx: Context) -> None: ...


EVERY_KIND = pytest.mark.parametrize("handler", [plain, asynchronous, in_process, in_process_async])


@EVERY_KIND
def test_a_success_in_every_kind_of_handler(handler: Callable[..., Any]) -> None:
    CHARGED.clear()
    outcome = run(handler, {"number": 7}, attempt=2, results={"load": {"rows": 3}})
    (child,) = outcome.children
    assert (outcome.status, outcome.failure_class, outcome.message) == ("succeeded", None, None)
    assert outcome.result == {"receipt": ["receipt", 7], "load": {"rows": 3}, "attempt": 2, "child": str(child.id)}
    assert outcome.progress == {"percent": 90, "message": "done"}
    assert outcome.steps == {"charge": ["receipt", 7]}
    assert (child.type, child.payload, child.delay, child.queue) == ("receipt.send", {"order": 7}, 5.0, "mails")
    assert (child.tags, child.metadata) == (("x",), {"a": "b"})
    assert [(line.level, line.message) for line in outcome.logs] == [("info", "paid"), ("warning", "a library warns")]
    assert outcome.logs[0].fields == {"receipt": ["receipt", 7]}
    assert CHARGED == [7]


def test_a_later_attempt_has_the_steps_of_the_earlier_one() -> None:
    CHARGED.clear()
    outcome = run(plain, Order(number=8), steps={"charge": "of attempt 1"}, results={"load": None})
    assert outcome.result["receipt"] == outcome.steps["charge"] == "of attempt 1"
    assert CHARGED == []


def raising(error: Exception, **options: Any) -> Callable[..., Any]:
    @job("raises", **options)
    def raises(payload: dict[str, Any], ctx: Context) -> None:
        ctx.submit("receipt.send", {"order": 1})
        ctx.step("before", str, 1)
        raise error

    return raises


@pytest.mark.parametrize(
    ("error", "status", "failure_class", "message"),
    [
        (InvalidJob("nothing to pay"), "failed", "invalid", "nothing to pay"),
        (AuthError("expired"), "failed", "auth", "expired"),
        (RateLimited(retry_after=90), "retrying", "rate_limited", "rate limited"),
        (ConnectionError("away"), "retrying", "transient", "ConnectionError: away"),
        (KeyError("x"), "retrying", "transient", "KeyError: 'x'"),
        (TimeoutError(), "retrying", "timeout", "TimeoutError"),
    ],
)
def test_what_is_raised_has_its_failure_class(error: Exception, status: str, failure_class: str, message: str) -> None:
    outcome = run(raising(error))
    assert (outcome.status, outcome.failure_class, outcome.message) == (status, failure_class, message)
    assert (outcome.children, outcome.steps, outcome.result) == ([], {"before": "1"}, None)
    assert "in raises" in (outcome.traceback or "")


def test_the_schedule_and_the_attempts_are_the_types() -> None:
    handler = raising(ConnectionError(), retry=Retry(max_attempts=3, schedule=(10, 60), jitter=0))
    assert [run(handler, attempt=number).retry_in for number in (1, 2, 3)] == [10, 60, None]
    assert [run(handler, attempt=number).status for number in (2, 3, 4)] == ["retrying", "failed", "failed"]
    skipped = run(raising(NotFound("gone"), not_found="skip"))
    assert (skipped.status, skipped.result, skipped.failure_class) == ("succeeded", {"skipped": True}, None)


@EVERY_KIND
def test_a_payload_that_does_not_fit_its_type(handler: Callable[..., Any]) -> None:
    wrong = run(handler, {"number": "seven"})
    assert (wrong.failure_class, wrong.status) == ("invalid", "failed")
    assert wrong.message == (
        "the payload does not fit its type: /number: Input should be a valid integer, unable to parse string as an "
        "integer"
    )


def test_what_is_not_json_or_no_child_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    @job("returns")
    async def returns(payload: dict[str, Any], ctx: Context) -> object:
        if "child" in payload:
            await ctx.submit(**payload["child"])
        return "x" * payload["size"] if "size" in payload else object()

    monkeypatch.setenv("ACCEPTED_MAX_RESULT_BYTES", "1024")
    assert "holds an object of type object" in str(run(returns).message)
    assert "larger than 1024 bytes" in str(run(returns, {"size": 2000}).message)
    unknown_type = {"type": "of.another.service", "payload": {"any": 1}}
    assert run(returns, {"size": 1, "child": unknown_type}).children[0].type == "of.another.service"
    assert "priority" in str(run(returns, {"child": {"type": "a", "priority": 10}}).message)
    wrong = {"type": "receipt.send", "payload": {"order": "seven"}}
    assert "/payload/order" in str(run(returns, {"child": wrong}).message)


def test_a_handler_that_runs_too_long() -> None:
    @job("waits", timeout=60)
    async def waits(payload: dict[str, Any], ctx: Context) -> None:
        await asyncio.Event().wait()

    outcome = run(waits, timeout=0.05)
    assert (outcome.failure_class, outcome.message, outcome.status) == ("timeout", "ran longer than 0.05 s", "retrying")


def test_a_transaction_needs_the_ledger() -> None:
    def books(payload: dict[str, Any], ctx: Context) -> None:
        with ctx.transaction():
            pytest.fail("there is none")

    assert "accepted.testing.WorkerHarness" in str(run(job("books")(books)).message)
    assert "does not reach into a process" in str(run(job("books", runs_in="process")(books)).message)


async def test_in_a_running_loop_with_other_servers() -> None:
    class Bank:
        async def send(self, *args: Any, **options: Any) -> HttpAnswer:
            return HttpAnswer(200, [], b"paid", truncated=False)

    @job("calls")
    async def calls(payload: dict[str, Any], ctx: Context) -> str:
        answer = await ctx.egress.send("POST", "https://bank.example/", {}, b"", timeout=5, max_bytes=100)
        return answer.body.decode()

    assert run(calls, egress=Bank()).result == "paid"
    assert run(calls).failure_class in ("invalid", "transient"), "the guarded client"


def test_a_run_leaves_logging_as_it_was() -> None:
    root, before = logging.getLogger(), logging.getLogger().level
    try:
        root.setLevel(logging.ERROR)
        assert len(run(plain, {"number": 1}, results={"load": 1}).logs) == 2
        assert root.level == logging.ERROR
    finally:
        root.setLevel(before)


def test_wrong_arguments_are_errors_of_the_test() -> None:
    with pytest.raises(ConfigurationError, match="'charge' is no handler"):
        run(charge)
    with pytest.raises(InvalidJob, match="the payload is not JSON"):
        run(plain, object())
    with pytest.raises(InvalidJob, match="the value of 'load'"):
        run(plain, {"number": 1}, results={"load": object()})


def test_it_is_there_after_an_import_of_the_package_alone() -> None:
    program = "import accepted; accepted.testing.run; from accepted import testing; testing.HandlerOutcome"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).stderr == b""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = accepted.testing.nothing
