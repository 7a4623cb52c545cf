"""The pruner takes large steps while nothing else is written, and small ones beside submissions."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted_worker.scheduler import pruning_pace
from accepted_worker.scheduler.pruner import Pruner
from accepted_worker.scheduler.pruning_pace import LARGE, LEAST, MOST_GENTLE, SMALL, PruningPace, target
from tests.support.ledger.jobs import DAY, claim, put
from tests.support.ledger.sql import do, rows


@pytest.mark.parametrize(
    ("writes", "deletes"),
    [
        pytest.param(0.0, None, id="at rest"),
        pytest.param(9.0, None, id="next to nothing"),
        pytest.param(50.0, LEAST, id="some jobs"),
        pytest.param(900.0, 2700.0, id="300 jobs a second, run too"),
        pytest.param(3000.0, None, id="more than small steps delete"),
    ],
)
def test_it_deletes_several_times_what_is_written(writes: float, deletes: float | None) -> None:
    assert target(writes) == deletes
    assert deletes is None or writes < deletes <= MOST_GENTLE


async def test_it_follows_what_is_written(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_pace, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(pruning_pace, "MOST_GENTLE", float("inf"))
    pace = PruningPace()
    assert (pace.limit, pace.rest(0.01, 100)) == (SMALL, 0.1), "before it knows"
    await _counted(engine)
    await pace.look(engine)
    await pace.look(engine)
    assert (pace.limit, pace.rest(0.05, LARGE)) == (LARGE, 0.05), "nobody has written"
    await put(engine, 50)
    await claim(engine, 50)
    await _counted(engine)
    await pace.look(engine)
    assert pace.limit == SMALL
    await pace.look(engine)
    assert pace.limit == LARGE


async def test_a_pruner_without_a_pace_of_its_own_is_gentle_first(engine: AsyncEngine) -> None:
    await put(engine, SMALL + 1)
    await do(engine, "UPDATE jobs SET status = 'succeeded', finished_at = now() - interval '2 days'")
    await do(engine, "DELETE FROM outbox")
    assert await Pruner(engine, 0, DAY).run_once() == SMALL
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 1


async def _counted(engine: AsyncEngine) -> None:
    """PostgreSQL counts what its connections have written only after a while; these do now."""
    for _ in range(20):
        await do(engine, "SELECT pg_stat_force_next_flush()")
