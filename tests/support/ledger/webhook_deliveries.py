"""Webhook deliveries in every state, made quickly: by the statements that make and end them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import WEBHOOK_QUEUE, WEBHOOK_TYPE
from accepted.domain.network.addresses import EgressAllow
from accepted.services.jobs.completion import settle
from accepted.settings import Settings
from accepted_worker.handlers.webhooks import webhook_handler
from accepted_worker.outbound.egress import Egress
from accepted_worker.runtime.worker import Worker
from tests.support.clients.client import Client
from tests.support.ledger.jobs import apply, claim, put, running_attempt
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import NOWHERE, working
from tests.support.waiting import until

URL = "http://example.com/hook"
ANSWER = '{"status_code":500,"body":"no"}'


@asynccontextmanager
async def sending(engine: AsyncEngine, broker: Broker, settings: Settings = NOWHERE) -> AsyncIterator[Worker]:
    """A worker that delivers, and a relay."""
    handlers = {WEBHOOK_TYPE: webhook_handler(engine, None)}
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with working(engine, broker, WEBHOOK_QUEUE, handlers=handlers, egress=egress, settings=settings) as worker:
        yield worker


async def ended(
    engine: AsyncEngine, url: str = URL, result: str = "{}", broker: Broker | None = None, **fields: Any
) -> tuple[UUID, UUID]:
    """A job that has succeeded, and the delivery that is to tell of it, published to `broker`: their ids."""
    (job_id,) = await put(engine, callback_url=url, **fields)
    (claimed,) = await claim(engine, 1)
    await settle(
        engine, broker or PostgresBroker(engine, ""), [transitions.succeeded(running_attempt(claimed), result)]
    )
    about = "SELECT id FROM jobs WHERE type = 'webhook.deliver' AND payload ->> 'job_id' = :id"
    (made,) = await rows(engine, about, id=str(job_id))
    return job_id, made["id"]


async def delivered(engine: AsyncEngine, status: str, **fields: Any) -> tuple[UUID, UUID]:
    """The same, the delivery having come to `status`: with one attempt, unless it is `queued`."""
    job_id, delivery_id = await ended(engine, **fields)
    if status == "queued":
        return job_id, delivery_id
    (claimed,) = await claim(engine, 1, queue=WEBHOOK_QUEUE)
    one = running_attempt(claimed)
    transition = {
        "succeeded": transitions.succeeded(one, '{"status_code":200,"body":"ok"}'),
        "failed": transitions.failed(one, FailureClass.INVALID, "the receiver answered 410 Gone", 0.0),
        "retrying": transitions.failed(one, FailureClass.TRANSIENT, "the receiver answered 500", 0.0),
        "scheduled": transitions.failed(one, FailureClass.TRANSIENT, "the receiver answered 500", 0.0),
        "cancelled": transitions.cancelled(one),
    }.get(status)
    if transition is not None:
        await apply(engine, msgspec.structs.replace(transition, answer=ANSWER))
    if status == "scheduled":
        await do(engine, "UPDATE jobs SET status = 'scheduled' WHERE id = :id", id=delivery_id)
    return job_id, delivery_id


async def listed(client: Client, query: str = "") -> list[Any]:
    answer = await client.get(f"/webhook-deliveries?{query}")
    assert answer.status_code == 200, answer.text
    items: list[Any] = answer.json()["items"]
    return items


async def the_delivery(client: Client, delivery_id: UUID | str) -> Any:
    (one,) = [each for each in await listed(client, "limit=200") if each["id"] == str(delivery_id)]
    return one


async def until_delivery(client: Client, delivery_id: UUID | str, *statuses: str) -> Any:
    async def there() -> Any:
        one = await the_delivery(client, delivery_id)
        return one if one["status"] in statuses else None

    return await until(there, 20, f"delivery {delivery_id} {statuses}", interval=0.05)


async def redeliver(client: Client, delivery_id: object) -> Any:
    return await client.http.post(f"/webhook-deliveries/{delivery_id}/redeliver")
