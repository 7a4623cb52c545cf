"""The counters of every process, in Prometheus' names. What the ledger can count is not counted here again."""

from prometheus_client import Counter, Gauge, Histogram

JOBS_ACCEPTED = Counter("accepted_jobs_accepted_total", "Jobs committed and answered with 202.", ["queue"])
SUBMISSIONS_REPLAYED = Counter(
    "accepted_submissions_replayed_total", "Submissions answered from an idempotency record."
)
BATCH_SIZE = Histogram(
    "accepted_batch_size", "Members of one transaction.", ["of"], buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
ATTEMPTS = Counter("accepted_attempts_total", "Attempts that ended, by how.", ["type", "outcome"])
ATTEMPT_SECONDS = Histogram(
    "accepted_attempt_seconds", "How long attempts ran.", ["type"],
    buckets=(0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)  # fmt: skip
ORPHANED_HANDLERS = Gauge(
    "accepted_orphaned_handlers",
    "Handlers that still run although their attempt is over, by what holds them.",
    ["in"],
)
TARGETS_DEFERRED = Counter(
    "accepted_targets_deferred_total",
    'Times that this worker deferred a host. Deferred attempts are accepted_attempts_total{outcome="deferred"}.',
    ["reason"],
)
OUTCOMES_FENCED = Counter("accepted_outcomes_fenced_total", "Late outcomes that the fence kept out of the ledger.")
MESSAGES_DROPPED = Counter(
    "accepted_messages_dropped_total",
    "Messages that led to no run: malformed, unknown, stale, duplicate.",
    ["reason"],
)
MESSAGES_REJECTED = Gauge(
    "accepted_rejected_messages", "Messages in accepted.dead, which were no references to jobs; NaN: not known."
)
REFS_PUBLISHED = Counter("accepted_refs_published_total", "References confirmed by the broker.", ["by"])
LOOP_DONE = Counter("accepted_loop_rows_total", "What each loop of the scheduler has done.", ["loop"])
LOOP_FAILED = Counter("accepted_loop_failures_total", "Rounds of a scheduler loop that failed.", ["loop"])
