"""How the worker learns why an attempt in a child process failed, also with unusual exceptions."""

from collections.abc import AsyncIterator

import pytest

from accepted.domain.failures import FailureClass
from accepted_worker.attempt.failures import RaisedInChild
from accepted_worker.process_pool.child_process import Crashed
from accepted_worker.process_pool.pool import ProcessPool
from tests.support.service.process_pool import SETUP, run


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool(SETUP)
    yield made
    await made.aclose()


@pytest.mark.parametrize(
    ("name", "says"),
    [("odd attribute", "RateLimited"), ("interrupting", "Interrupting"), ("not to be formatted", "SyntaxError: x .*")],
)
async def test_an_unusual_exception_is_a_failure_and_not_a_crash(pool: ProcessPool, name: str, says: str) -> None:
    pid = (await run(pool, "pid"))["pid"]
    with pytest.raises(RaisedInChild, match=f"^{says}$") as failure:
        await run(pool, "raise", name)
    assert (failure.value.failure_class, failure.value.retry_after) == (FailureClass.TRANSIENT, None)
    assert (await run(pool, "pid"))["pid"] == pid


async def test_a_crash_says_how_the_process_ended(pool: ProcessPool) -> None:
    with pytest.raises(Crashed, match="by itself, with exit code 3"):
        await run(pool, "exit slowly", 3)
