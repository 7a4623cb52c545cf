"""The fence as SQL: the job still runs that attempt, and its lease is open and held by that worker."""

from accepted.domain.lease import Lease

OPEN_LEASE = """
    SELECT t.job_id, t.attempt FROM attempts t JOIN jobs j ON j.id = t.job_id
    WHERE t.job_id = :job_id AND t.attempt = :attempt AND t.worker_id = :worker_id AND t.finished_at IS NULL
      AND j.status = 'running' AND j.attempt = t.attempt
"""
"""One row while the lease holds; its parameters are those of `values`."""


def values(lease: Lease) -> dict[str, object]:
    return {"job_id": lease.job_id, "attempt": lease.attempt, "worker_id": lease.worker_id}
