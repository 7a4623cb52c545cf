"""GET /webhook-deliveries, POST /webhook-deliveries/{id}/redeliver, and the secret that signs a tenant's webhooks."""

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api import batches
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import DeliveryReader, DeliveryWriter, WebhooksReader, WebhooksWriter, documented
from accepted.api.http.parameters import Listing, Page, in_chunks, only_query
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.jobs import reading as jobs
from accepted.api.jobs.answers import MONITORED, ErrorView, monitor_headers
from accepted.api.state import State, state_of
from accepted.domain import cursor, json_text
from accepted.domain.job import WEBHOOK_TYPE, Status
from accepted.domain.monitoring.audit import Action
from accepted.domain.network import signing
from accepted.errors import FieldError, InvalidRequest, ResourceNotFound
from accepted.services.monitoring import audit
from accepted.services.webhooks import WAITING
from accepted.services.webhooks import redeliver as send_again
from accepted.settings import Settings
from accepted.storage import webhooks
from accepted.storage.db.engine import reading, transaction
from accepted.storage.webhooks import DeliveryAttempt, DeliveryFilter, WebhookDelivery

router = APIRouter(tags=["webhooks"], dependencies=documented)

PATH = "/webhook-deliveries"

FIRST_CHUNK = 50
"""Deliveries that are read first: each has up to some tens of kilobytes of attempts."""

_MISSING = (errors.ResourceNotFound, errors.Gone)


class DeliveryQuery(Page):
    """The query of GET /webhook-deliveries."""

    job_id: Annotated[UUID, Field(description="deliveries about this job")] | None = None
    batch_id: Annotated[UUID, Field(description="deliveries about this batch")] | None = None
    status: Status | None = None


class DeliveryAttemptView(BaseModel):
    """One POST to the receiver, and its answer; `status_code` is null if no answer came."""

    attempt: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    status_code: int | None
    body: str | None = Field(description="The first 1024 bytes of the answer, read as UTF-8.")
    error: ErrorView | None


class DeliveryView(BaseModel):
    """A webhook delivery; `id` is that of its job, and also the `webhook-id` unless it is a redelivery.

    `job_id` or `batch_id` is what the webhook is about. `redelivery_of` is the succeeded delivery that this one sends
    again, with the `webhook-id` of that one.
    """

    id: UUID
    job_id: UUID | None
    batch_id: UUID | None
    redelivery_of: UUID | None
    url: str
    event: str
    status: Status
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None
    attempts: list[DeliveryAttemptView]


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first; `next` is the cursor of the next page."""

    items: list[DeliveryView]
    next: str | None


class SecretView(BaseModel):
    """The secret that signs webhooks, and the secrets that still sign them during a rotation."""

    secret: str
    previous: list[str]


@router.get(
    PATH,
    response_model=DeliveryPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*_MISSING, *REFUSALS)},
)
async def list_(request: Request, who: DeliveryReader, query: Annotated[DeliveryQuery, Query()]) -> Response:
    """Webhook deliveries, newest first, each with its attempts. 404 for a job or batch that does not exist."""
    if query.job_id is not None and query.batch_id is not None:
        raise InvalidRequest([FieldError("/batch_id", "a delivery is about a job or a batch: give only one of them")])
    state = state_of(request)
    listing = Listing(PATH, who.tenant, query)
    found = await _page(state, who.tenant, query, DeliveryFilter(**listing.filters), listing.begin(cursor.read))
    return listing.answer(found, found, lambda one, scope: cursor.write(one["id"], scope))


@router.post(
    PATH + "/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryView,
    dependencies=[Depends(only_query())],
    responses={
        202: {
            "description": "The delivery that sends it again. The headers are about its job.",
            "headers": MONITORED,
        },
        **responses_for(errors.Conflict, *_MISSING, *REFUSALS),
    },
)
async def redeliver(request: Request, who: DeliveryWriter, delivery_id: UUID) -> Response:
    """Send a webhook again, now, with the same `webhook-id` and body. 409 while it is still being sent."""
    state = state_of(request)
    job = await jobs.find(state, who.tenant, delivery_id)
    if job.type != WEBHOOK_TYPE:
        raise ResourceNotFound("this job is not a webhook delivery")
    again = await send_again(state.engine, state.broker, job)
    async with reading(state.engine) as conn:
        found = await webhooks.find(conn, who.tenant, again.id)
    if found is None:
        raise ResourceNotFound("the delivery is past its retention")
    (shown,) = await _with_attempts(state, [found])
    return Response(json_text.encode(shown), 202, monitor_headers(again), media_type=JSON)


@router.get(
    "/webhook-secret",
    response_model=SecretView,
    dependencies=[Depends(only_query())],
    responses=responses_for(*REFUSALS),
)
async def get_secret(request: Request, who: WebhooksReader) -> Response:
    """The current secret; makes one if the tenant has none."""
    state = state_of(request)
    async with transaction(state.engine) as conn:
        secrets = await _current(conn, state.settings, who.tenant)
        await conn.commit()
    return _secrets(secrets)


@router.post(
    "/webhook-secret/rotate",
    response_model=SecretView,
    dependencies=[Depends(only_query())],
    responses=responses_for(*REFUSALS),
)
async def rotate_secret(request: Request, who: WebhooksWriter) -> Response:
    """Make a new secret. For 24 hours webhooks are signed with both."""
    state = state_of(request)
    async with transaction(state.engine) as conn:
        await _current(conn, state.settings, who.tenant)
        secrets = await webhooks.rotate_secret(conn, who.tenant, signing.new_secret())
        await audit.record(conn, Action.WEBHOOK_SECRET_ROTATED, who.tenant)
        await conn.commit()
    return _secrets(secrets)


async def _current(conn: AsyncConnection, settings: Settings, tenant: str) -> list[str]:
    """The tenant's secrets, newest first. The caller commits.

    Where others have keys, no tenant is shown the master: a tenant that had it without authentication gets its own.
    """
    master = settings.webhook_secret
    if master is None or settings.auth == "off":
        return await webhooks.current_secrets(conn, tenant, signing.first_secret(master, tenant))
    await webhooks.forget_secret(conn, tenant, master)
    return await webhooks.current_secrets(conn, tenant, signing.secret_of_tenant(master, tenant))


async def _page(
    state: State, tenant: str, query: DeliveryQuery, wanted: DeliveryFilter, begin: UUID | None
) -> list[dict[str, Any]]:
    """Raises `ResourceNotFound` or `Gone` for a job or batch that does not exist; an empty page means "nothing sent".

    Existing deliveries are shown even if their job or batch is past its retention.
    """

    async def read(before: UUID | None, count: int) -> list[dict[str, Any]]:
        async with reading(state.engine) as conn:
            found = await webhooks.page(conn, tenant, msgspec.structs.replace(wanted, before=before), count)
        return await _with_attempts(state, found)

    page = await in_chunks(
        read, begin, query.limit, itemgetter("id"), lambda one: len(json_text.encode(one)), FIRST_CHUNK
    )
    if not page and query.job_id is not None:
        await jobs.find(state, tenant, query.job_id)
    if not page and query.batch_id is not None:
        await batches.find(state, tenant, query.batch_id)
    return page


async def _with_attempts(state: State, page: Sequence[WebhookDelivery]) -> list[dict[str, Any]]:
    if not page:
        return []
    async with reading(state.engine) as conn:
        attempts = await webhooks.attempts_at(conn, [one.id for one in page])
    by_delivery: dict[UUID, list[dict[str, Any]]] = {one.id: [] for one in page}
    for each in attempts:
        by_delivery[each.delivery_id].append(_attempt(each))
    return [_shown(one) | {"attempts": by_delivery[one.id]} for one in page]


def _shown(delivery: WebhookDelivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "job_id": delivery.job_id,
        "batch_id": delivery.batch_id,
        "redelivery_of": delivery.redelivery_of,
        "url": delivery.url,
        "event": delivery.event,
        "status": delivery.status,
        "created_at": delivery.created_at,
        "next_attempt_at": delivery.run_at if delivery.status in WAITING else None,
        "finished_at": delivery.finished_at,
    }


def _attempt(one: DeliveryAttempt) -> dict[str, Any]:
    stored = None if one.answer is None else msgspec.json.decode(one.answer)
    answer = stored if isinstance(stored, dict) else {}
    return {
        "attempt": one.attempt,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "outcome": one.outcome,
        "status_code": answer.get("status_code"),
        "body": answer.get("body"),
        "error": None if one.error is None else msgspec.Raw(one.error.encode()),
    }


def _secrets(secrets: list[str]) -> Response:
    body = json_text.encode({"secret": secrets[0], "previous": secrets[1:]})
    return Response(body, headers={"Cache-Control": "no-store"}, media_type=JSON)
