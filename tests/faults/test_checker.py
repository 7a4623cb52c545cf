"""The judge himself: each thing that he is there to find, made by hand, is found."""

import json
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults import effects
from tests.faults.audit import UNHANDLED
from tests.faults.catalogue import FAULTS
from tests.faults.checker import Ledger, check
from tests.faults.client import Call, Client
from tests.faults.table import Row, covered_by, lines

JOB = """
INSERT INTO jobs (id, tenant, type, queue, status, priority, attempt, max_attempts, payload, metadata,
                  run_at, finished_at)
VALUES ('{id}', 't', 'effect', 'effects', '{status}', 4, 1, 5, '{{}}', '{{"key": "{key}"}}', now(), now())
"""
SUCCESS = """
INSERT INTO attempts (job_id, attempt, worker_id, started_at, finished_at, outcome)
VALUES ('{id}', {attempt}, gen_random_uuid(), now(), now(), 'succeeded')
"""


class Bench:
    """A client that believes what it is told, a ledger, and a journal of effects."""

    def __init__(self, ledger: Ledger, client: Client, journal: Path) -> None:
        self.ledger, self.client, self.journal = ledger, client, journal

    async def job(self, key: str, *, status: str = "succeeded", successes: int = 1) -> str:
        """One that is all right: accepted, in the ledger, with its effect and its one success."""
        job_id = str(uuid4())
        await self.ledger.execute(JOB.format(id=job_id, key=key, status=status))
        for attempt in range(1, successes + 1):
            await self.ledger.execute(SUCCESS.format(id=job_id, attempt=attempt))
        self.accepted(key, job_id)
        self.effect(job_id)
        return job_id

    def accepted(self, key: str, job_id: str) -> None:
        self.client.attempted.add(key)
        self.client.calls.append(Call(key, 202, job_id, False, None, 0.1, time.time()))

    def effect(self, job_id: str, attempt: int = 1) -> None:
        with self.journal.open("a") as file:
            for what in ("started", "finished"):
                file.write(json.dumps(effects.Line(what, job_id, attempt, 1, time.time())) + "\n")

    async def check(self) -> None:
        await check(self.ledger, self.client, self.journal, within=0.3)


@pytest.fixture
async def bench(ledger: Ledger, tmp_path: Path) -> Bench:
    bench = Bench(ledger, Client("http://127.0.0.1:9", tmp_path), tmp_path / "effects")
    await bench.job("well")
    return bench


async def test_nothing_is_found_where_nothing_is_wrong(bench: Bench) -> None:
    await bench.check()
    verdict = bench.client.verdict
    assert verdict is not None
    assert (verdict.attempted, verdict.acknowledged) == (1, 1)
    assert (verdict.lost, verdict.duplicated, verdict.unexpected, verdict.recovered) == (0, 0, 0, 0)


async def test_a_lost_job_is_found(bench: Bench) -> None:
    bench.accepted("lost", str(uuid4()))
    await _finds(bench, "not in the ledger", lost=1)


async def test_an_unfinished_job_is_found(bench: Bench) -> None:
    await bench.job("unfinished", status="running", successes=0)
    await _finds(bench, "all jobs finished", lost=1)


async def test_a_job_that_failed_is_found(bench: Bench) -> None:
    await bench.job("failed", status="failed", successes=0)
    await _finds(bench, "ended otherwise")


async def test_two_jobs_of_one_key_are_found(bench: Bench) -> None:
    await bench.job("well")
    await _finds(bench, "several ids", duplicated=1)


async def test_a_success_recorded_twice_is_found(bench: Bench) -> None:
    await bench.job("twice", successes=2)
    await _finds(bench, "more than once", duplicated=1)


async def test_an_effect_of_nobodys_job_is_found(bench: Bench) -> None:
    bench.effect(str(uuid4()))
    await _finds(bench, "does not know", unexpected=1)


async def test_an_attempt_that_ran_twice_is_found(bench: Bench) -> None:
    bench.effect(next(iter(bench.client.ids)))
    await _finds(bench, "ran twice")


async def test_a_job_that_nobody_submitted_is_found(bench: Bench) -> None:
    await bench.job("stranger")
    bench.client.attempted.discard("stranger")
    await _finds(bench, "nobody submitted")


def test_unhandled_exceptions_in_a_log_are_found() -> None:
    assert UNHANDLED.search("ERROR asyncio Task exception was never retrieved\nfuture: <Task finished>")
    assert not UNHANDLED.search('{"event":"loop_failed","level":"warning"}')


def test_a_fault_counts_only_if_all_of_its_tests_passed() -> None:
    rows = [Row(("F01", "F02"), "test_one", "idle"), Row(("F02",), "test_other", "idle", passed=False)]
    assert covered_by(rows) == {"F01"}
    assert lines(rows)[-1].startswith(f"1 of {len(FAULTS)} ")


async def _finds(bench: Bench, what: str, **numbers: int) -> None:
    with pytest.raises(AssertionError, match=what):
        await bench.check()
    for name, number in numbers.items():
        assert getattr(bench.client.verdict, name) == number
