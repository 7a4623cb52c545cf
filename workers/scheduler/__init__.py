"""The scheduler process: its loops, and how each comes to its settings."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.base import Broker
from app.services.catalogue import Catalogue
from app.services.intake import Intake
from app.settings import Settings
from app.storage.direct import Direct
from workers.scheduler.base import Loop
from workers.scheduler.batches import Batches
from workers.scheduler.cron import Cron
from workers.scheduler.expiry import Expiry
from workers.scheduler.gate import Gate
from workers.scheduler.overdue import Overdue
from workers.scheduler.pruner import Pruner
from workers.scheduler.reconciler import Reconciler
from workers.scheduler.rejections import Rejections
from workers.scheduler.relay import Relay
from workers.scheduler.reporter import Reporter
from workers.scheduler.rescuer import Rescuer
from workers.scheduler.sampler import Sampler


def loops(engine: AsyncEngine, broker: Broker, settings: Settings, looks: Direct) -> list[Loop]:
    """Every duty of the scheduler. Those that look often share `looks`, the driver's own connection: an idle look
    costs a quarter of what it does through the pool, and they are a dozen a second."""
    intake = Intake(Catalogue(engine, settings.egress_allow), settings.egress_allow, settings.max_payload_bytes)
    always: list[Loop] = [
        Relay(engine, broker, looks),
        Gate(engine, broker, settings.require_database(), settings.lease_ttl, looks),
        Rescuer(engine, broker, settings.lease_ttl),
        Overdue(engine, broker, looks),
        Reconciler(engine, broker),
        Expiry(engine, broker, looks),
        Batches(engine, broker, looks),
        Cron(engine, broker, intake, looks),
        Pruner(engine, settings.retention, settings.retention_failed),
        Rejections(broker),
        Sampler(engine),
    ]
    return always if settings.alert_url is None else [*always, Reporter(engine, broker)]
