"""The objects that all routes of one API process share."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from accepted.broker.base import Broker
from accepted.concurrency import TimeSlices
from accepted.services.batches.spool import SpoolSpace
from accepted.services.job_types.cache import JobTypeCache
from accepted.services.jobs.checks import JobChecks
from accepted.services.jobs.submission import Submissions
from accepted.services.jobs.watching import JobWatcher
from accepted.services.keys import ApiKeyCache
from accepted.services.lease_waiters import LeaseWaiters
from accepted.services.leases import Leases
from accepted.services.limited_submission import LimitedSubmissions
from accepted.services.monitoring.statistics import Measurements
from accepted.services.submission_limits import SubmissionLimits
from accepted.settings import Settings


@dataclass(frozen=True)
class State:
    """Made once by `accepted.api.app.create_app`."""

    settings: Settings
    engine: AsyncEngine
    broker: Broker
    submissions: Submissions
    limits: SubmissionLimits
    limited_submissions: LimitedSubmissions
    watcher: JobWatcher
    type_cache: JobTypeCache
    job_checks: JobChecks
    measurements: Measurements
    keys: ApiKeyCache
    slices: TimeSlices
    spool_space: SpoolSpace
    leases: Leases
    lease_waiters: LeaseWaiters


def state_of(request: Request) -> State:
    """The state of the application that serves this request."""
    state: State = request.app.state.accepted
    return state
