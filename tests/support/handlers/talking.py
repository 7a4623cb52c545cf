"""Handlers that log, in each way in which a handler can run."""

import asyncio
import logging
import os
import threading
import time
from typing import Any

from accepted import Context, job
from tests.support.waiting import until

cart = logging.getLogger("shop.cart")

_begun: set[int] = set()
"""The numbers of jobs that have begun in this process: those that `together` names wait for each other."""


def say(payload: dict[str, Any], ctx: Context) -> None:
    number = payload["number"]
    ctx.log.info("begins", number=number, nul="a\0b", surrogate="\ud800", odd=object, big="x" * 5000)
    cart.info("cart %s", number, extra={"colour": "red"})
    cart.debug("not kept")
    try:
        int("x" + str(number))
    except ValueError:
        ctx.log.bind(bound=number).exception("caught")
        cart.warning("caught too", exc_info=True)


def _all_begun(payload: dict[str, Any]) -> bool:
    _begun.add(payload["number"])
    return _begun >= set(payload.get("together", ()))


@job("talk.async", queue="q")
async def talk(payload: dict[str, Any], ctx: Context) -> None:
    say(payload, ctx)
    await until(lambda: _all_begun(payload), 30, "the others to begin")
    for _ in range(20):
        await asyncio.sleep(0)
        cart.info("turn %s", payload["number"])
    await asyncio.create_task(_says_in_a_task(payload["number"]))
    asyncio.get_running_loop().call_exception_handler({"message": "of somebody else's garbage"})
    await asyncio.sleep(payload.get("seconds", 0))
    ctx.log.info("ends")


async def _says_in_a_task(number: int) -> None:
    cart.info("task %s", number)


@job("talk.thread", queue="q")
def talk_in_a_thread(payload: dict[str, Any], ctx: Context) -> None:
    say(payload, ctx)
    while not _all_begun(payload):
        time.sleep(0.01)
    cart.info("still %s", payload["number"])


@job("talk.process", queue="q", runs_in="process")
def talk_in_a_process(payload: dict[str, Any], ctx: Context) -> None:
    say(payload, ctx)
    cart.error("wrong arguments: %d", "x")
    thread = threading.Thread(target=cart.info, args=("thread %s", payload["number"]))
    thread.start()
    thread.join()
    if payload.get("die"):
        os._exit(3)


@job("talk.flood", queue="q")
def flood(payload: dict[str, Any], ctx: Context) -> None:
    for number in range(1, payload["lines"] + 1):
        if number == payload.get("pause_at"):
            time.sleep(1.5)
        ctx.log.info(f"line {number}", padding="x" * payload["padding"])


@job("talk.flood.process", queue="q", runs_in="process")
def flood_in_a_process(payload: dict[str, Any], ctx: Context) -> None:
    flood(payload, ctx)
