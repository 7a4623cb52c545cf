"""The guarantees rest on a few lines. Each is broken here on purpose, and a test has to notice.

A mutant is a list of edits and the tests that kill it. When one no longer applies, the code has changed under it:
mend the edit, do not drop the mutant.
"""

from pathlib import Path

import pytest

from tests.mutants.client import CLIENT
from tests.mutants.harm import HARM
from tests.mutants.transactions import TRANSACTIONS
from tests.mutants.workshop import ROOT, Edit, Mutant, apply, copy_tree, run
from tests.support.servers.postgres import DatabaseServer

AHEAD = "tests/integration/worker/test_claimed_ahead.py::"
ORDER = "tests/faults/test_order.py::"
COMMITS = "tests/faults/test_commits.py::"
LIFE = "tests/model/test_life.py::"
FIRING = "tests/integration/schedules/test_firing.py::"
CHANGED_LIMITS = "tests/integration/queues/test_changed_limits.py::"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


MUTANTS = (
    Mutant(
        "a late worker may write",
        (
            Edit(
                "app/accepted/storage/attempts/completion.py",
                "    WHERE j.status = 'running' AND j.attempt = a.attempt AND (NOT",
                "    WHERE (NOT",
            ),
            Edit(
                "app/accepted/storage/attempts/completion.py",
                " AND t.worker_id = a.worker_id AND {STILL_OPEN}",
                "",
            ),
            Edit(
                "app/accepted/storage/attempts/completion.py",
                "WHERE j.id = a.job_id AND j.status = 'running' AND j.attempt = a.attempt",
                "WHERE j.id = a.job_id",
            ),
        ),
        (ORDER + "test_a_late_outcome_changes_nothing", ORDER + "test_another_workers_lease_is_not_ours_to_end"),
    ),
    Mutant(
        "the lease is not part of the fence",
        (
            Edit(
                "app/accepted/storage/attempts/completion.py",
                " AND t.worker_id = a.worker_id AND {STILL_OPEN}",
                "",
            ),
        ),
        (ORDER + "test_another_workers_lease_is_not_ours_to_end",),
    ),
    Mutant(
        "the worker acks before it commits",
        (
            Edit(
                "workers/accepted_worker/runtime/lane.py",
                """            await self._recorder.record(transition)
            await self._ack(delivery)
""",
                """            await self._ack(delivery)
            await self._recorder.record(transition)
""",
            ),
        ),
        (ORDER + "test_a_message_is_acked_only_after_its_outcome_is_committed",),
    ),
    Mutant(
        "a worker keeps what it has claimed ahead",
        (
            Edit("workers/accepted_worker/runtime/claimed_ahead.py", "PATIENCE = 4", "PATIENCE = 10**9"),
            Edit("workers/accepted_worker/runtime/claimed_ahead.py", "LONGEST = 40", "LONGEST = 10**9"),
        ),
        (AHEAD + "test_what_waits_behind_long_jobs_goes_to_other_workers_uncharged[postgres]",),
    ),
    Mutant(
        "a slot is free though its transaction is not",
        (
            Edit(
                "workers/accepted_worker/attempt/tools.py",
                "return lease in self._to_commit",
                "return False",
            ),
        ),
        (AHEAD + "test_a_slot_is_free_once_its_handler_has_ended_unless_it_has_a_transaction[begins.transaction-2]",),
    ),
    Mutant(
        "the answer goes out before the COMMIT",
        (
            Edit(
                "app/accepted/services/jobs/submission.py",
                """            async with self._ledger.statements() as conn:
                await self._name_queues(conn, entries)
                accepted = await ledger.insert(conn, entries, self._ttl)
""",
                """            async with self._ledger.statements() as conn:
                await self._name_queues(conn, entries)
            now = datetime.now(UTC)
            accepted = {entry.job.id: Accepted("queued", now, now) for entry in entries}
            asyncio.create_task(_insert(self._ledger, entries, self._ttl))
""",
            ),
            Edit(
                "app/accepted/services/jobs/submission.py",
                "import msgspec\n",
                "import asyncio\nfrom datetime import UTC, datetime\n\nimport msgspec\n",
            ),
            Edit(
                "app/accepted/services/jobs/submission.py",
                "class Submissions:",
                """async def _insert(direct, entries, ttl) -> None:
    async with direct.statements() as conn:
        await ledger.insert(conn, entries, ttl)


class Submissions:""",
            ),
        ),
        (
            COMMITS + "test_a_commit_that_fails_leaves_nothing_and_the_key_free",
            COMMITS + "test_no_202_before_the_commit_is_answered",
        ),
    ),
    Mutant(
        "jobs are published from memory only",
        (Edit("app/accepted/storage/jobs/submission.py", "handoff IS NULL AND NOT on_hold, ", "NOT on_hold, "),),
        (ORDER + "test_what_a_dead_submitter_did_not_publish_is_published_by_the_relay",),
    ),
    Mutant(
        "the relay follows a cursor",
        (
            Edit(
                "app/accepted/storage/jobs/outbox.py",
                """WHERE {_UNPUBLISHED} AND due_at <= now()
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
""",
                """WHERE {_UNPUBLISHED} AND due_at <= now() AND job_id > CAST(:last AS uuid)
    ORDER BY job_id LIMIT :limit FOR UPDATE SKIP LOCKED
""",
            ),
            Edit(
                "app/accepted/storage/jobs/outbox.py",
                """    rows = await _TAKE_DUE.rows(conn, limit=limit, hold=hold, since=since)
""",
                """    rows = await _TAKE_DUE.rows(conn, limit=limit, hold=hold, since=since, last=_CURSOR[0])
    _CURSOR[0] = max([_CURSOR[0], *(row["job_id"] for row in rows)])
""",
            ),
            Edit(
                "app/accepted/storage/jobs/outbox.py",
                "async def take_due(",
                "_CURSOR = [UUID(int=0)]\n\n\nasync def take_due(",
            ),
        ),
        (ORDER + "test_the_relay_finds_a_row_that_commits_after_a_later_one",),
    ),
    Mutant(
        "keys are looked up, then inserted",
        (
            Edit(
                "app/accepted/storage/jobs/idempotency.py",
                """    FROM {{rows}} WHERE key IS NOT NULL ORDER BY tenant, key
    ON CONFLICT (tenant, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, expires_at = excluded.expires_at,
            duplicate = false
        WHERE k.{EXPIRED}
    RETURNING job_id
""",
                """    FROM {{rows}} AS given WHERE key IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM idempotency_keys seen WHERE seen.tenant = given.tenant AND seen.key = given.key
    ) ORDER BY tenant, key
    RETURNING job_id
""",
            ),
        ),
        (ORDER + "test_a_key_that_another_process_is_just_inserting",),
    ),
    Mutant(
        "a returned message counts as published",
        (Edit("app/accepted/broker/rabbitmq/broker.py", "on_return_raises=True", "on_return_raises=False"),),
        (ORDER + "test_a_message_that_no_queue_takes_is_not_published",),
    ),
    Mutant(
        "a cancel overrules an end",
        (Edit("app/accepted/storage/attempts/completion.py", " AND NOT a.finished AS cancel", " AS cancel"),),
        (LIFE + "test_a_life_is_as_the_contract_has_it",),
    ),
    Mutant(
        "a time of a schedule fires whoever has written its row",
        (
            Edit(
                "app/accepted/services/schedules.py",
                "for run in recorded if run.job_id is not None",
                "for run in runs if run.job_id is not None",
            ),
        ),
        (FIRING + "test_a_time_that_has_a_row_makes_no_second_job",),
    ),
    Mutant(
        "a run is committed before its job",
        (
            Edit(
                "app/accepted/services/schedules.py",
                "        await ledger.leave_out_runs(",
                """        await ledger.move(conn, next_times)
        await conn.commit()
        await ledger.leave_out_runs(""",
            ),
        ),
        (FIRING + "test_a_fire_that_is_cut_off_leaves_nothing",),
    ),
    Mutant(
        "a confirmed limit is noticed later",
        (Edit("app/accepted/api/queues.py", "    state_of(request).limits.forget()\n", ""),),
        ("tests/integration/queues/test_max_depth.py::test_a_raised_limit_counts_all_that_waits",),
    ),
    Mutant(
        "a read that began before the change counts as one after it",
        (
            Edit(
                "app/accepted/services/settings_watch.py",
                "self._read_after = changes",
                "self._read_after = self._changes",
            ),
        ),
        ("tests/unit/test_settings_watch.py::test_a_change_during_a_read_is_read",),
    ),
    Mutant(
        "a slow receiver gets as many deliveries at once as a fast one",
        (Edit("app/accepted/storage/admission.py", "COALESCE(v.seconds, {rules.UNKNOWN}), b.age, ", ""),),
        ("tests/integration/webhooks/test_slow_receivers.py::test_a_receiver_that_becomes_slow_gets_fewer_at_once",),
    ),
    Mutant(
        "a rate waits for a clock that was set back",
        (Edit("workers/accepted_worker/scheduler/limiter.py", "if set_back or ready <= 0:", "if ready <= 0:"),),
        (CHANGED_LIMITS + "test_a_clock_that_was_set_back_costs_one_interval_at_most",),
    ),
    Mutant(
        "a new quota counts the past at its own rate",
        (
            Edit(
                "app/accepted/storage/tenants.py",
                """used = LEAST({_STILL_USED.format(now="clock_timestamp()")}, excluded.jobs)""",
                "used = LEAST(q.used, excluded.jobs)",
            ),
        ),
        (CHANGED_LIMITS + "test_a_new_quota_settles_what_the_former_one_gave_back",),
    ),
)

EVERY = MUTANTS + HARM + CLIENT + TRANSACTIONS
KILLERS = sorted({killer for mutant in EVERY for killer in mutant.killers})


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it is now, copied once: somebody may be editing it."""
    return copy_tree(ROOT, tmp_path_factory.mktemp("unmutated"))


def test_the_unmutated_copy_passes(tree: Path, tmp_path: Path, database_server: DatabaseServer) -> None:
    verdict = run(copy_tree(tree, tmp_path), KILLERS, _servers(database_server))
    assert verdict.exit_code == 0, verdict.output
    assert verdict.passed == {_name(killer) for killer in KILLERS}


@pytest.mark.parametrize("mutant", EVERY, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_is_caught(mutant: Mutant, tree: Path, tmp_path: Path, database_server: DatabaseServer) -> None:
    copy = copy_tree(tree, tmp_path)
    apply(copy, mutant.edits)
    verdict = run(copy, mutant.killers, _servers(database_server))
    assert verdict.exit_code == 1, verdict.output
    survived = {_name(killer) for killer in mutant.killers} - verdict.failed
    assert not survived, f"{mutant.name!r} survived {survived}:\n{verdict.output}"


def _servers(database_server: DatabaseServer) -> dict[str, str]:
    """They share our PostgreSQL, each with databases of its own; the broker is stopped and looked into, so not that."""
    return {"TEST_DATABASE_URL": database_server.url()}


def _name(test: str) -> str:
    return test.rpartition("::")[2].partition("[")[0]
