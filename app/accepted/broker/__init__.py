"""Brokers, which carry references from the ledger to the workers."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.broker.postgres import PostgresBroker
from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.settings import Settings


def create_broker(settings: Settings, engine: AsyncEngine) -> Broker:
    """The broker that `ACCEPTED_BROKER_URL` names."""
    if settings.broker_url == "postgres":
        return PostgresBroker(engine, settings.require_database())
    return RabbitBroker(settings.broker_urls, engine)
