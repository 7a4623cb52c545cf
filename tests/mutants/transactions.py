"""What keeps a job and its caller's own row together, broken on purpose (docs/transactions.md)."""

from tests.mutants.workshop import Edit, Mutant

LEDGER = "alembic/versions/0001_ledger.py"
FORWARDER = "app/accepted/forwarding/forwarder.py"
ROWS = "app/accepted/forwarding/rows.py"
NOTIFY = "PERFORM pg_notify('accepted_submitted', '');"
ONE_JOB = "tests/harm/test_forwarding.py::test_one_job_whatever_dies"

TRANSACTIONS = (
    Mutant(
        "a job in a caller's transaction names its queue there",
        (Edit(LEDGER, NOTIFY, f"INSERT INTO queues (name) VALUES (asked.queue) ON CONFLICT DO NOTHING; {NOTIFY}"),),
        ("tests/integration/transactions/test_submit_function.py::test_an_open_transaction_holds_up_nobody",),
    ),
    Mutant(
        "a commit of a caller notifies nobody",
        (Edit(LEDGER, NOTIFY, "NULL;"),),
        ("tests/integration/transactions/test_after_the_commit.py::test_a_worker_has_it_at_once[postgres]",),
    ),
    Mutant(
        "a forwarder submits a row under another key each time",
        (
            Edit(
                FORWARDER, '"Idempotency-Key": str(row.id)', '"Idempotency-Key": str(asyncio.get_running_loop().time())'
            ),
        ),
        (ONE_JOB + "[answer-lost]",),
    ),
    Mutant(
        "a row is submitted after its key is forgotten",
        (
            Edit(
                ROWS,
                "COALESCE(tried_at > now() - CAST($3 AS float8) * interval '1 second', true)",
                "CAST($3 AS float8) > 0",
            ),
            Edit(ROWS, "WHERE stopped IS NULL AND tried_at <= now()", "WHERE false AND tried_at <= now()"),
        ),
        ("tests/integration/transactions/test_outbox.py::test_what_the_service_refuses_is_stopped_and_told",),
    ),
)
