"""What keeps a client from losing or doubling jobs, and a receiver from believing anybody, broken on purpose."""

from tests.mutants.workshop import Edit, Mutant

COMMANDS = "app/accepted/api/jobs/commands.py"
EXCHANGE = "app/accepted/client/exchange.py"
VERIFICATION = "app/accepted/webhooks/verification.py"
TRIES = "tests/integration/client/test_exchange.py::"
SIGNED = "tests/unit/webhooks/test_verification.py::"
JOBS = "tests/acceptance/client/test_client.py::"

CLIENT = (
    Mutant(
        "a submission without a key of its caller has none",
        (
            Edit(
                "app/accepted/client/bodies.py",
                '"Idempotency-Key": str(uuid4()) if key is None else key}',
                '**({} if key is None else {"Idempotency-Key": key})}',
            ),
        ),
        (JOBS + "test_a_lost_answer_makes_no_second_job",),
    ),
    Mutant(
        "what has no key is repeated whatever became of it",
        (Edit(EXCHANGE, "passing and (request.repeatable or not _may_be_carried_out(answer))", "passing"),),
        (TRIES + "test_a_retry_of_what_cannot_be_read_is_repeated_only_if_it_was_not_carried_out",),
    ),
    Mutant(
        "a retry is carried out whatever the job has become",
        (Edit(COMMANDS, "if if_match is not None and not matches(", "if False and not matches("),),
        (JOBS + "test_a_lost_answer_retries_and_cancels_once",),
    ),
    Mutant(
        "the client does not wait for Retry-After",
        (Edit(EXCHANGE, "max(asked_for or 0.0, backoff(tries))", "backoff(tries)"),),
        (TRIES + "test_a_retry_waits_as_long_as_it_was_asked_to",),
    ),
    Mutant(
        "events begin again after a broken connection",
        (
            Edit(
                "app/accepted/client/events.py",
                '{"Last-Event-ID": frames.last_id} if frames.last_id else {}',
                "{}",
            ),
        ),
        (TRIES + "test_events_go_on_where_their_stream_broke_off",),
    ),
    Mutant(
        "a list ends with its first page",
        (Edit("app/accepted/client/jobs.py", 'cursor = page["next"]', "cursor = None"),),
        (JOBS + "test_lists_go_over_pages",),
    ),
    Mutant(
        "certificates are not checked",
        (
            Edit(
                "app/accepted/client/connection.py", 'return not self.url.lower().startswith("http://")', "return False"
            ),
        ),
        (TRIES + "test_a_certificate_that_nobody_has_signed_is_refused",),
    ),
    Mutant(
        "any signature is good",
        (Edit(VERIFICATION, "if not any(", "if not given and not any("),),
        (SIGNED + "test_both_refuse_what_was_changed",),
    ),
    Mutant(
        "a webhook never grows old",
        (Edit(VERIFICATION, "> tolerance:", "> tolerance * 100:"),),
        (SIGNED + "test_both_have_the_same_tolerance",),
    ),
    Mutant(
        "an empty secret verifies",
        (Edit(VERIFICATION, "if not secrets or not all(map(signing.is_secret, secrets)):", "if not secrets:"),),
        (SIGNED + "test_what_is_no_secret_verifies_nothing",),
    ),
)
