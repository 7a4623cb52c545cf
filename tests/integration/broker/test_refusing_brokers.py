"""A broker that refuses the user or the virtual host, or is not there: one line, where, what, and what to do."""

import asyncio
import math
import time

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.broker.rabbitmq.connections import Connector
from accepted.domain.ids import new_id
from accepted.domain.references import JobRef
from accepted.errors import BrokerUnavailable
from tests.support.servers.ports import free_port
from tests.support.servers.proxy import Direction, Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

PASSWORD = "hunter2secret"


async def refusal_of(*urls: str) -> str:
    with pytest.raises(BrokerUnavailable) as raised:
        await Connector(urls).open("test")
    text = str(raised.value)
    assert len(text.splitlines()) == 1
    assert "hunter2" not in text
    return text


async def test_a_broker_that_refuses(rabbitmq_node: RabbitMQNode) -> None:
    at = f"127.0.0.1:{rabbitmq_node.port}"
    wrong = await refusal_of(f"amqp://guest:{PASSWORD}@{at}/")
    assert f"the broker at {at}, virtual host '/', user 'guest': ACCESS_REFUSED" in wrong
    assert "correct the user, the password or the virtual host in ACCEPTED_BROKER_URL" in wrong
    elsewhere = await refusal_of(f"amqp://guest:guest@{at}/no-such-vhost")
    assert "virtual host 'no-such-vhost'" in elsewhere
    assert "NOT_ALLOWED" in elsewhere
    several = await refusal_of(f"amqp://guest:{PASSWORD}@{at}/", f"amqp://u:{PASSWORD}@127.0.0.1:{free_port()}/")
    assert "ACCESS_REFUSED" in several
    assert "connection refused" in several


async def test_a_broker_that_is_not_there() -> None:
    port = free_port()
    refused = await refusal_of(f"amqp://u:{PASSWORD}@127.0.0.1:{port}/v")
    assert refused.startswith(f"the broker at 127.0.0.1:{port}, virtual host 'v', user 'u': connection refused")
    assert "does not resolve" in await refusal_of(f"amqp://u:{PASSWORD}@no-such-host.invalid/")


async def test_a_refused_worker_says_so_once_and_asks_less_and_less_often(
    rabbitmq_node: RabbitMQNode, engine: AsyncEngine
) -> None:
    """Until an operator mends the password; then it consumes without a restart."""
    rabbitmq_node.eval('rabbit_auth_backend_internal:add_user(<<"late">>, <<"another">>, <<"tests">>)')
    logins: list[bytes] = []

    def count(_: Direction, chunk: bytes) -> None:
        if chunk.startswith(b"AMQP"):
            logins.append(chunk)

    async with Proxy(f"127.0.0.1:{rabbitmq_node.port}", watch=count) as proxy:
        broker = RabbitBroker([f"amqp://late:{PASSWORD}@127.0.0.1:{proxy.port}/"], engine)
        subscription = broker.subscribe(new_id(), 1)
        subscription.serve(["refused"])
        with structlog.testing.capture_logs() as lines:
            running = asyncio.create_task(subscription.run())
            began = time.monotonic()
            assert await broker.publish([JobRef(new_id(), 0, "refused", "noop", 4)]) == []
            await until(lambda: time.monotonic() - began > 6, 20, "several tries")
            await until(lambda: "consumer_lost" in str(lines), 20, "a line about it")
            tries = math.log2(1 + time.monotonic() - began)
            assert len(logins) <= 2 + math.ceil(tries), "after 0, 1, 3 and 7 s, and perhaps two at once"
            refused = [line["event"] for line in lines if "ACCESS_REFUSED" in line["error"] and "repeated" not in line]
            assert sorted(refused) == ["consumer_lost", "publish_failed"]
            assert PASSWORD not in str(lines)
            assert "ACCESS_REFUSED" in await broker.check()

            rabbitmq_node.eval(
                'rabbit_auth_backend_internal:set_permissions(<<"late">>, <<"/">>, '
                '<<".*">>, <<".*">>, <<".*">>, <<"tests">>), '
                f'rabbit_auth_backend_internal:change_password(<<"late">>, <<"{PASSWORD}">>, <<"tests">>)'
            )

            async def works() -> bool:
                return await broker.check() == "ok"

            await until(works, 30, "the broker admits us")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await broker.close()
    rabbitmq_node.eval('rabbit_auth_backend_internal:delete_user(<<"late">>, <<"tests">>)')
