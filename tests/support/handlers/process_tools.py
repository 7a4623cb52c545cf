"""Job types that run in processes and use their tools there. Served through ACCEPTED_HANDLERS."""

import asyncio
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from accepted import Context, InvalidJob, Retry, TransientError, job
from accepted.domain.failures import LeaseLost
from accepted_worker.process_pool import forks
from tests.support.waiting import until

PATIENCE = 60.0
AT_ONCE = Retry(max_attempts=3, schedule=(0.0,), jitter=0.0)


class Use(BaseModel):
    """What to use, and how: `place` is a directory in which test and handler tell each other how far they are."""

    model_config = ConfigDict(extra="forbid")

    do: str
    place: str = "."
    arg: Any = None

    def at(self, name: str) -> Path:
        return Path(self.place, name)


class Own(Exception):
    """Of a kind that no worker knows."""


@job("use", queue="q", runs_in="process", retry=AT_ONCE)
def use(payload: Use, ctx: Context) -> Any:
    """Uses its tools as a plain function."""
    return USES[payload.do](payload, ctx)


@job("use.async", queue="q", runs_in="process", retry=AT_ONCE)
async def use_async(payload: Use, ctx: Context) -> Any:
    """Uses its tools on an event loop of its own."""
    return await ASYNC_USES[payload.do](payload, ctx)


def note(journal: Path, *, word: str = "ran") -> Any:
    """Leaves a line for each time it runs."""
    with journal.open("a") as lines:
        lines.write(f"{word} {os.getpid()}\n")
    return {"paid": (5, word), "at": datetime(2026, 1, 1, tzinfo=UTC)}


def wait_for(path: Path) -> str:
    """In a plain thread."""
    asyncio.run(until(path.exists, PATIENCE))
    return path.name


def _steps(given: Use, ctx: Context) -> Any:
    async def of_its_own_loop() -> int:
        await asyncio.sleep(0)
        return ctx.job.attempt

    first = ctx.step("note", note, given.at("journal"), word="paid")
    assert first == ctx.step("note", note, given.at("journal")), "the second of the name is the first"
    attempt = ctx.step("attempt", of_its_own_loop)
    if ctx.job.attempt < 3:
        raise TransientError("again")
    return [first, attempt, os.getpid()]


def _crash_after(given: Use, ctx: Context) -> Any:
    ctx.step("note", note, given.at("journal"))
    if ctx.job.attempt == 1:
        os._exit(9)
    return "survived"


def _crash_within(given: Use, ctx: Context) -> Any:
    def die() -> int:
        note(given.at("journal"))
        if ctx.job.attempt == 1:
            os._exit(9)
        return ctx.job.attempt

    return ctx.step("die", die)


def _raise(given: Use, ctx: Context) -> Any:
    def fail() -> None:
        raise Own("of mine")

    try:
        ctx.step("fails", fail)
    except Own as error:
        return [str(error), ctx.step("fails", lambda: "then not")]


def _unfit(given: Use, ctx: Context) -> Any:
    ctx.step("unfit", (lambda: object()) if given.arg is None else (lambda: "x" * given.arg))


def _name(given: Use, ctx: Context) -> Any:
    try:
        ctx.step(given.arg, print)
    except ValueError as error:
        return str(error)


def _lose(given: Use, ctx: Context) -> Any:
    def charge() -> int:
        if ctx.job.attempt == 1:
            given.at("started").touch()
            wait_for(given.at("go"))
        return ctx.job.attempt

    try:
        return ctx.step("charge", charge)
    except LeaseLost as lost:
        given.at("lost").write_text(f"{type(lost).__name__}: {lost}")
        raise


def _submit(given: Use, ctx: Context) -> Any:
    ids = [str(ctx.submit("use", {"do": "nothing"}, delay=0)) for _ in range(given.arg["count"])]
    if ctx.job.attempt <= given.arg.get("fail", 0):
        raise TransientError("after all were submitted")
    return ids


def _grow(given: Use, ctx: Context) -> Any:
    for _ in range(given.arg):
        ctx.submit("use", given.model_dump())


def _submit_so(given: Use, ctx: Context) -> Any:
    try:
        ctx.submit(given.arg.get("type", "use"), given.arg.get("payload"), **given.arg.get("options", {}))
    except InvalidJob as refusal:
        given.at("said").write_text(str(refusal))
        raise


def _submit_unfit(given: Use, ctx: Context) -> Any:
    ctx.submit("use", {"do": object()})


def _submit_huge(given: Use, ctx: Context) -> Any:
    ctx.submit("use", {"do": "nothing", "arg": "x" * given.arg})


def _transaction(given: Use, ctx: Context) -> Any:
    with ctx.transaction() as conn:
        conn.execute(None)  # type: ignore[arg-type]


def _work(given: Use, ctx: Context) -> Any:
    """All of them, with a crash in the middle of the first attempt."""
    before = ctx.results
    noted = ctx.step("note", note, given.at("journal"))
    ctx.submit("noop")
    if ctx.job.attempt == 1:
        os._exit(9)
    return {"before": before, "noted": noted, "cancelled": ctx.cancelled}


def _leave_a_thread_that_waits(given: Use, ctx: Context) -> Any:
    """When the attempt is over, it hears of it, and then says what each of its tools comes to."""

    def waits() -> None:
        told = [_class_of(lambda: ctx.step("waits", print))]
        ctx.progress(99, "of another job")
        told += [_class_of(lambda: ctx.step("late", print)), _class_of(lambda: ctx.submit("use", {"do": "nothing"}))]
        given.at("told").write_text(" ".join(told))

    forks.GRACE_SECONDS = 10.0  # for the thread to have its say before its process is killed
    threading.Thread(target=waits, daemon=True).start()
    wait_for(given.at("return"))


def _commit_and_hang(given: Use, ctx: Context) -> Any:
    given.at("pid").write_text(str(os.getpid()))
    return ctx.step("note", note, given.at("journal"))


def _class_of(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "nothing"


async def _together(given: Use, ctx: Context) -> Any:
    async def charge() -> str:
        note(given.at("journal"))
        await asyncio.sleep(0)
        return "charged"

    charged = await asyncio.gather(*(ctx.step("charge", charge) for _ in range(3)))
    beside = await ctx.step("beside", threading.get_ident)
    children = await asyncio.gather(*(ctx.submit("use", {"do": "nothing"}) for _ in range(20)))
    return [charged, beside != threading.get_ident(), len(set(children)), ctx.results]


async def _results(given: Use, ctx: Context) -> Any:
    return ctx.results


async def _give_up(given: Use, ctx: Context) -> Any:
    """A step that is cancelled in its function is none."""
    try:
        async with asyncio.timeout(0.2):
            await ctx.step("slow", asyncio.Event().wait)
    except TimeoutError:
        return await ctx.step("slow", lambda: "at once")


async def _transaction_async(given: Use, ctx: Context) -> Any:
    async with ctx.transaction():
        pass


async def _mail(given: Use, ctx: Context) -> Any:
    """Sends a message of one line from `arg`."""
    return await ctx.mail.send(given.arg, ["jane@example.com"], b"Subject: Hi\r\n\r\n", leave_out_busy=False)


USES = {
    "nothing": lambda given, ctx: given.arg,
    "steps": _steps,
    "crash after": _crash_after,
    "crash within": _crash_within,
    "raise": _raise,
    "unfit": _unfit,
    "name": _name,
    "lose": _lose,
    "submit": _submit,
    "grow": _grow,
    "submit so": _submit_so,
    "submit unfit": _submit_unfit,
    "submit huge": _submit_huge,
    "results": lambda given, ctx: ctx.results,
    "nest": lambda given, ctx: ctx.step("outer", lambda: ctx.step("outer", note, given.at("journal"))),
    "stop": lambda given, ctx: ctx.step("stop", next, iter([])),
    "transaction": _transaction,
    "work": _work,
    "leave a thread that waits": _leave_a_thread_that_waits,
    "commit and hang": _commit_and_hang,
}

ASYNC_USES = {
    "results": _results,
    "together": _together,
    "give up": _give_up,
    "transaction": _transaction_async,
    "mail": _mail,
}
