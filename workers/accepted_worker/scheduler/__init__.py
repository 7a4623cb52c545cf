"""The scheduler process: its loops, and how each comes to its settings."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services.job_types import JobTypeCache
from accepted.services.jobs.checks import JobChecks
from accepted.settings import Settings
from accepted.storage.db.statements import Direct
from accepted_worker.scheduler.base import Loop
from accepted_worker.scheduler.batches import Batches
from accepted_worker.scheduler.cron import Cron
from accepted_worker.scheduler.expiry import Expiry
from accepted_worker.scheduler.limiter import Limiter
from accepted_worker.scheduler.overdue import Overdue
from accepted_worker.scheduler.pruner import Pruner
from accepted_worker.scheduler.reconciler import Reconciler
from accepted_worker.scheduler.rejections import Rejections
from accepted_worker.scheduler.relay import Relay
from accepted_worker.scheduler.reporter import Reporter
from accepted_worker.scheduler.rescuer import Rescuer
from accepted_worker.scheduler.sampler import Sampler


def loops(engine: AsyncEngine, broker: Broker, settings: Settings, polls: Direct) -> list[Loop]:
    """Every duty of the scheduler. Those that poll often share `polls`, the driver's own connection: an idle poll
    costs a quarter of what it does through the pool, and there are a dozen a second."""
    checks = JobChecks(JobTypeCache(engine, settings.egress_allow), settings.egress_allow, settings.max_payload_bytes)
    always: list[Loop] = [
        Relay(engine, broker, polls),
        Limiter(engine, broker, settings.require_database(), settings.lease_ttl, polls),
        Rescuer(engine, broker, settings.lease_ttl),
        Overdue(engine, broker, polls),
        Reconciler(engine, broker),
        Expiry(engine, broker, polls),
        Batches(engine, broker, polls),
        Cron(engine, broker, checks, polls),
        Pruner(engine, settings.retention, settings.retention_failed),
        Rejections(broker),
        Sampler(engine),
    ]
    return always if settings.alert_url is None else [*always, Reporter(engine, broker)]
