"""Brokers, which carry references from the ledger to the workers."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.settings import Settings


def create_broker(settings: Settings, engine: AsyncEngine) -> Broker:
    """The broker that `ACCEPTED_BROKER_URL` names. Only that one is loaded: the driver of AMQP is a large one."""
    if settings.broker_url == "postgres":
        from accepted.broker.postgres import PostgresBroker

        return PostgresBroker(engine, settings.require_database())
    from accepted.broker.rabbitmq.broker import RabbitBroker

    return RabbitBroker(settings.broker_urls, engine)
