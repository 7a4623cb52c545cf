"""The road between the ledger and the workers."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.base import Broker
from app.broker.postgres import PostgresBroker
from app.broker.rabbitmq import RabbitBroker
from app.settings import Settings


def create_broker(settings: Settings, engine: AsyncEngine) -> Broker:
    """The broker that `ACCEPTED_BROKER_URL` names."""
    if settings.broker_url == "postgres":
        return PostgresBroker(engine, settings.require_database())
    return RabbitBroker(settings.broker_urls, engine)
