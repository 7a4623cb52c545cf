"""What tests of the API and tests on either broker start from."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.broker.postgres import PostgresBroker
from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.storage.db.engine import create_engine
from tests.support.clients.client import Client
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.limited_queue import Queue
from tests.support.service.http_app import HttpApp, http_app


@pytest.fixture
async def app(engine: AsyncEngine, database_url: str) -> AsyncIterator[HttpApp]:
    """The API in this process, on a ledger of its own, without a worker."""
    async with http_app(engine, database_url) as app:
        yield app


@pytest.fixture
async def client(app: HttpApp) -> Client:
    return await app.client()


@pytest.fixture(params=["postgres", "rabbitmq"])
async def harness(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[BrokerHarness]:
    engine = create_engine(database_url, pool_size=30)  # what several processes would have
    if request.param == "postgres":
        broker: Broker = PostgresBroker(engine, database_url)
    else:
        broker = RabbitBroker([request.getfixturevalue("amqp_url")], engine)
    harness = BrokerHarness(request.param, engine, broker)
    yield harness
    await harness.close()


@pytest.fixture
def queue(engine: AsyncEngine, broker: PostgresBroker, database_url: str) -> Queue:
    return Queue(engine, broker, database_url)
