"""The scheduler process: its loops, with the settings of each."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services.job_types.cache import JobTypeCache
from accepted.services.jobs.checks import JobChecks
from accepted.services.monitoring.statistics import Measurements
from accepted.settings import Settings
from accepted.storage.db.statements import Direct
from accepted_worker.scheduler.base import Loop
from accepted_worker.scheduler.batches import BatchLoop
from accepted_worker.scheduler.cron import Cron
from accepted_worker.scheduler.ending import Expiry, Overdue, Rescuer
from accepted_worker.scheduler.figures import Figures
from accepted_worker.scheduler.housekeeping import LetterCounter, MeasurementReports, Rejections, Reporter, Sampler
from accepted_worker.scheduler.limiter import Limiter
from accepted_worker.scheduler.pruner import Pruner
from accepted_worker.scheduler.relay import Reconciler, Relay
from accepted_worker.scheduler.transactions import TransactionalSubmissions


def loops(engine: AsyncEngine, broker: Broker, settings: Settings, polls: Direct) -> list[Loop]:
    """All loops of the scheduler. Those that poll often share `polls`, a connection of the driver's own.

    A poll on it costs a quarter of one through the pool, and there are a dozen a second.
    """
    checks = JobChecks(JobTypeCache(engine, settings.egress_allow), settings.egress_allow, settings.max_payload_bytes)
    measurements = Measurements()
    url, relay = settings.require_database(), Relay(engine, broker, polls)
    always: list[Loop] = [
        relay,
        TransactionalSubmissions(engine, url, measurements, relay.wake),
        Limiter(engine, broker, url, settings.lease_ttl, polls),
        Rescuer(engine, broker, settings.lease_ttl, measurements),
        Overdue(engine, broker, polls, measurements),
        Reconciler(engine, broker),
        Expiry(engine, broker, polls),
        BatchLoop(engine, broker, polls),
        Cron(engine, broker, checks, polls, measurements),
        Pruner(engine, settings.retention, settings.retention_failed),
        Rejections(broker),
        Sampler(engine),
        LetterCounter(engine),
        MeasurementReports(engine, measurements),
        Figures(engine),
    ]
    return always if settings.alert_url is None else [*always, Reporter(engine, broker)]
