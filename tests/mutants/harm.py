"""What keeps one tenant, handler or web page from hurting another, broken on purpose (`tests/harm`)."""

from tests.mutants.workshop import Edit, Mutant

FAIRNESS = "tests/harm/test_fairness.py::"
COSTLY = "tests/harm/test_costly_requests.py::test_nobody_waits_for_a_costly_request"
BLOCKED = "tests/harm/test_blocked_loop.py"
TYPES = "tests/harm/test_job_types_of_others.py::"
STARVED = "tests/harm/test_starved_types.py::"
PLAIN_AGAIN = "tests/integration/queues/test_plain_again.py::"

HARM = (
    Mutant(
        "a payload is validated whatever it costs",
        (Edit("app/accepted/services/job_types/schema_cost.py", "if steps > MAX_STEPS and", "if steps < 0 and"),),
        (COSTLY + "[4,900 parts over 60,000 items]",),
    ),
    Mutant(
        "every unknown name has a hint",
        (
            Edit("app/accepted/errors.py", "MAX_HINTS = 5", "MAX_HINTS = 5000"),
            Edit("app/accepted/errors.py", "MAX_COMPARED = 200", "MAX_COMPARED = 5000"),
        ),
        (COSTLY + "[200 unknown names]",),
    ),
    Mutant(
        "a large body is read at once",
        (Edit("app/accepted/domain/json_pieces.py", "LARGE = 32 * 1024", "LARGE = 2**30"),),
        (COSTLY + "[16 MiB of empty members]",),
    ),
    Mutant(
        "a job type is found whoever has put it",
        (
            Edit(
                "app/accepted/services/job_types/cache.py",
                "found = await job_types.names(conn, self.owner)",
                "found = await job_types.names(conn, 'b')",
            ),
        ),
        (TYPES + "test_a_type_of_the_same_name_changes_nothing_for_others",),
    ),
    Mutant(
        "a tenant's type is that of its handlers' attempts whoever has put it",
        (Edit("app/accepted/storage/workers.py", "k.tenant IN ('', {job}.tenant)", "true"),),
        ("tests/integration/job_types/test_own_types.py::test_the_policy_of_an_attempt_is_that_of_its_tenants_type",),
    ),
    Mutant(
        "a tenant's type takes a queue from others",
        (
            Edit(
                "app/accepted/storage/queue_tenants.py",
                "WHERE y.tenant = '' AND y.queue = n.queue",
                "WHERE y.queue = n.queue",
            ),
            Edit(
                "app/accepted/storage/queues.py",
                "NOT EXISTS (SELECT 1 FROM job_types y WHERE y.tenant = '' AND y.queue = q.name)",
                "NOT EXISTS (SELECT 1 FROM job_types y WHERE y.queue = q.name)",
            ),
        ),
        (TYPES + "test_a_type_keeps_no_worker_from_the_jobs_of_others",),
    ),
    Mutant(
        "a tenant has as many types as it likes",
        (Edit("app/accepted/services/job_types/registration.py", "MAX_SCHEMAS = 4 * 2**20", "MAX_SCHEMAS = 2**40"),),
        (TYPES + "test_many_large_types_take_bounded_memory_and_nobody_waits",),
    ),
    Mutant(
        "a page is served under any name that leads to loopback",
        (Edit("app/accepted/api/http/exposure.py", "return Misdirected", "continue"),),
        ("tests/harm/test_web_pages.py::test_a_page_cannot_submit_under_its_own_name",),
    ),
    Mutant(
        "`accepted dev` ends with its worker",
        (Edit("app/accepted/cli/dev.py", "if code == os.EX_CONFIG:", "if code:"),),
        ("tests/harm/test_handlers_in_dev.py::test_the_api_of_dev_outlives_its_handlers",),
    ),
    Mutant(
        "a fork is not ended with its worker",
        (
            Edit(
                "workers/accepted_worker/process_pool/forks.py",
                "        process.end_with(os.open(",
                "        print(os.open(",
            ),
        ),
        ("tests/harm/test_what_handlers_leave.py::test_a_fork_has_no_connection_of_its_worker_and_ends_with_it",),
    ),
    Mutant(
        "what waits under a key outlives it",
        (Edit("app/accepted/services/keys.py", "waiting.reschedule(now)", "waiting.reschedule(now + 60)"),),
        ("tests/harm/test_small_harms.py::test_what_waits_under_a_key_ends_with_it",),
    ),
    Mutant(
        "one tenant may hold all slots",
        (
            Edit(
                "app/accepted/domain/turns.py",
                "return slots if slots < 2 else slots - max(1, slots // RESERVED)",
                "return slots",
            ),
        ),
        (FAIRNESS + "test_a_flood_of_long_jobs_holds_up_nobody_else[postgres]",),
    ),
    Mutant(
        "heartbeats come from the event loop that handlers block",
        (
            Edit(
                "workers/accepted_worker/runtime/heartbeats.py",
                "                if not self._withheld:\n",
                "                if not self._withheld and watchdog.blocking is None:\n",
            ),
        ),
        (BLOCKED + "::test_a_blocked_loop_is_no_lost_lease",),
    ),
    Mutant(
        "what runs beside a culprit is charged as well",
        (
            Edit(
                "app/accepted/services/jobs/crashes.py",
                "if one.lease == culprit else transitions.handed_back(one)",
                "if one.lease == culprit else transitions.crashed(one, random.random(), message)",
            ),
        ),
        (BLOCKED + "::test_past_the_limit_the_culprit_alone_is_charged",),
    ),
    Mutant(
        "suspects run beside others",
        (
            Edit(
                "workers/accepted_worker/runtime/suspects.py",
                "if claim.crashes < MAX_CRASHES - 1:",
                "if claim.crashes < MAX_CRASHES:",
            ),
        ),
        ("tests/harm/test_crashes.py::test_only_the_culprit_of_a_crash_is_condemned[exit]",),
    ),
    Mutant(
        "any free slot is room for a job of any type",
        (Edit("app/accepted/storage/admission.py", '{"types": room.able,', '{"types": None,'),),
        (STARVED + "test_those_behind_them_run[postgres]",),
    ),
    Mutant(
        "a queue stays limited for ever",
        (Edit("workers/accepted_worker/scheduler/limiter.py", "if one.may_be_plain and", "if False and"),),
        (PLAIN_AGAIN + "test_the_last_job_with_a_priority_is_gone",),
    ),
    Mutant(
        "what comes on hold after its queue was made plain stays there",
        (Edit("workers/accepted_worker/scheduler/limiter.py", "done = await self._release_late()", "done = 0"),),
        (PLAIN_AGAIN + "test_a_submission_that_commits_just_after_is_not_left_on_hold[the limiter lives]",),
    ),
)
