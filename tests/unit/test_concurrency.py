"""Concurrent calls become batches, a bad item fails alone, callers that gave up are left out; shared deadlines."""

import asyncio
from collections.abc import Sequence

import pytest

from accepted import correlation
from accepted.concurrency import Coalescer, Deadlines
from accepted.errors import LedgerUnavailable
from tests.support.waiting import until


class Flushes:
    """A flush that notes its batches and, where told so, waits to be let through."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.at_once = self.most_at_once = 0
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()
        self.poison: set[int] = set()
        self.error: Exception = ValueError("poisoned")

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if self.poison & set(items):
                raise self.error
            return [item * 10 for item in items]
        finally:
            self.at_once -= 1


async def test_each_caller_gets_its_own_answer() -> None:
    flushes = Flushes()
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    assert await asyncio.gather(*(call(n) for n in range(50))) == [n * 10 for n in range(50)]


async def test_a_batch_is_not_in_the_log_as_its_first_callers() -> None:
    async def ids(items: list[int]) -> Sequence[object]:
        return [dict(correlation.ids())] * len(items)

    correlation.bind({"request_id": "first"})
    assert await Coalescer(ids, max_batch=2)(1) == {}
    assert correlation.ids() == {"request_id": "first"}


async def test_calls_of_one_turn_are_one_batch() -> None:
    flushes = Flushes()
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    await asyncio.gather(*(call(n) for n in range(50)))
    assert flushes.batches == [list(range(50))]


async def test_a_single_call_waits_for_nothing() -> None:
    flushes = Flushes()
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    future = call(1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert future.done()


async def test_a_batch_has_at_most_so_many() -> None:
    flushes = Flushes()
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=7)
    await asyncio.gather(*(call(n) for n in range(50)))
    assert max(map(len, flushes.batches)) == 7
    assert [item for batch in flushes.batches for item in batch] == list(range(50))


async def test_calls_made_meanwhile_form_the_next_batch() -> None:
    flushes = Flushes(held=True)
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    first = call(0)
    await until(lambda: flushes.batches)
    rest = [call(n) for n in range(1, 10)]
    flushes.gate.set()
    await asyncio.gather(first, *rest)
    assert flushes.batches == [[0], list(range(1, 10))]


@pytest.mark.parametrize("lanes", [1, 3])
async def test_at_most_so_many_flushes_at_once(lanes: int) -> None:
    flushes = Flushes(held=True)
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=2, parallel=lanes)
    futures = []
    for number in range(20):
        futures.append(call(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert flushes.at_once == lanes
    flushes.gate.set()
    await asyncio.gather(*futures)
    assert flushes.most_at_once == lanes


async def test_a_lane_is_free_again_after_a_failure() -> None:
    flushes = Flushes()
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=5)
    flushes.poison = {1}
    with pytest.raises(ValueError, match="poisoned"):
        await call(1)
    flushes.poison = set()
    assert await asyncio.wait_for(call(2), 5) == 20


async def test_a_poisoned_member_fails_alone() -> None:
    flushes = Flushes()
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    flushes.poison = {3}
    answers = await asyncio.gather(*(call(n) for n in range(6)), return_exceptions=True)
    assert [str(each) for each in answers] == ["0", "10", "20", "poisoned", "40", "50"]
    assert flushes.batches[0] == list(range(6))
    assert flushes.batches[1:] == [[n] for n in range(6)]


async def test_an_error_of_the_service_is_everybodys_and_is_not_tried_member_by_member() -> None:
    flushes = Flushes()
    flushes.poison, flushes.error = {3}, LedgerUnavailable("away")
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    answers = await asyncio.gather(*(call(n) for n in range(6)), return_exceptions=True)
    assert all(isinstance(answer, LedgerUnavailable) for answer in answers)
    assert len(flushes.batches) == 1


async def test_an_answer_that_is_an_exception_is_raised_to_its_caller_only() -> None:
    async def flush(items: list[int]) -> list[int | Exception]:
        return [KeyError(item) if item == 1 else item for item in items]

    call: Coalescer[int, int] = Coalescer(flush, max_batch=10)
    answers = await asyncio.gather(call(0), call(1), call(2), return_exceptions=True)
    assert (answers[0], type(answers[1]), answers[2]) == (0, KeyError, 2)


async def test_who_has_given_up_is_left_out_of_the_next_batch() -> None:
    flushes = Flushes(held=True)
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    first = call(0)
    await until(lambda: flushes.batches)
    second, third = call(1), call(2)
    second.cancel()
    flushes.gate.set()
    assert await asyncio.gather(first, third) == [0, 20]
    assert flushes.batches == [[0], [2]]


async def test_a_caller_who_gives_up_during_the_flush_disturbs_nobody() -> None:
    flushes = Flushes(held=True)
    call: Coalescer[int, int] = Coalescer(flushes, max_batch=100)
    impatient = asyncio.ensure_future(asyncio.wait_for(call(1), 0.05))
    patient = call(2)
    with pytest.raises(TimeoutError):
        await impatient
    flushes.gate.set()
    assert await patient == 20


async def test_a_cancelled_flush_cancels_its_callers() -> None:
    async def flush(items: list[int]) -> list[int | Exception]:
        raise asyncio.CancelledError

    call: Coalescer[int, int] = Coalescer(flush, max_batch=10)
    answers = await asyncio.gather(call(1), call(2), return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(call(3), return_exceptions=True)
    )


async def test_a_flush_that_answers_too_little_leaves_nobody_waiting_for_ever() -> None:
    async def flush(items: list[int]) -> list[int | Exception]:
        return [*items][:-1]

    call: Coalescer[int, int] = Coalescer(flush, max_batch=10)
    answers = asyncio.gather(call(1), call(2), return_exceptions=True)
    done, _ = await asyncio.wait([asyncio.ensure_future(_gathered(answers))], timeout=2)
    assert done, "a caller waits for an answer that never comes"


async def _gathered(answers: "asyncio.Future[list[object]]") -> list[object]:
    return await answers


class Late(Exception):
    pass


async def test_each_wait_ends_in_time_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(0.1, Late)
    futures = []
    started = []
    for _ in range(3):
        futures.append(loop.create_future())
        started.append(loop.time())
        deadlines.add(futures[-1])
        await asyncio.sleep(0.04)
    for future, start in zip(futures, started, strict=True):
        with pytest.raises(Late):
            await future
        assert loop.time() - start >= 0.1


async def test_what_is_done_is_left_alone() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(0.02, Late)
    done, late = loop.create_future(), loop.create_future()
    deadlines.add(done)
    deadlines.add(late)
    done.set_result(1)
    with pytest.raises(Late):
        await late
    assert await done == 1


async def test_what_is_done_is_not_kept() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(60, Late)
    for _ in range(100):
        future = loop.create_future()
        deadlines.add(future)
        future.set_result(None)
    assert len(deadlines._waiting) == 1
