"""GET /webhook-deliveries: what was sent to receivers and what they answered; and sending one again."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api import batches
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Reader, Writer, documented
from accepted.api.http.parameters import Listing, only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs import reading as jobs
from accepted.api.jobs.answers import monitor_headers
from accepted.api.state import State, state_of
from accepted.api.webhook_delivery_schemas import DeliveryPage, DeliveryQuery, DeliveryView
from accepted.domain import cursor, json_text
from accepted.domain.job import WEBHOOK_TYPE
from accepted.errors import FieldError, InvalidRequest, ResourceNotFound
from accepted.services.webhooks import WAITING
from accepted.services.webhooks import redeliver as send_again
from accepted.storage import webhooks
from accepted.storage.db.engine import reading
from accepted.storage.webhooks import DeliveryAttempt, DeliveryFilter, WebhookDelivery

router = APIRouter(tags=["webhooks"], dependencies=documented)

PATH = "/webhook-deliveries"

_REFUSED = (
    errors.ResourceNotFound, errors.Gone, errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden,
    errors.LedgerUnavailable,
)  # fmt: skip


@router.get(
    PATH,
    response_model=DeliveryPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*_REFUSED)},
)
async def list_(request: Request, who: Reader, asked: Annotated[DeliveryQuery, Query()]) -> Response:
    """Webhook deliveries, newest first, each with its attempts. 404 for a job or batch that is not there."""
    if asked.job_id is not None and asked.batch_id is not None:
        raise InvalidRequest([FieldError("/batch_id", "a delivery tells of a job or of a batch: name one of them")])
    state = state_of(request)
    listing = Listing(PATH, who.tenant, asked)
    wanted = DeliveryFilter(**listing.filters, before=listing.begin(cursor.read))
    found = await _page(state, who.tenant, asked, wanted)
    items = await _with_tries(state, found[: asked.limit])
    return listing.answer(found, items, lambda one, scope: cursor.write(one.id, scope))


@router.post(
    PATH + "/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryView,
    dependencies=[Depends(only_query())],
    responses={
        202: {
            "description": "The delivery that sends it again. The headers are about its job.",
            "headers": header_docs("Location", "Operation-Location", "Link", "Retry-After"),
        },
        **responses_for(errors.Conflict, *_REFUSED),
    },
)
async def redeliver(request: Request, who: Writer, delivery_id: UUID) -> Response:
    """Send a webhook again, now, with the same `webhook-id` and body. 409 while it is being sent anyway."""
    state = state_of(request)
    job = await jobs.find(state, who.tenant, delivery_id)
    if job.type != WEBHOOK_TYPE:
        raise ResourceNotFound("this job is no webhook delivery")
    again = await send_again(state.engine, state.broker, job)
    async with reading(state.engine) as conn:
        found = await webhooks.find(conn, who.tenant, again.id)
    if found is None:
        raise ResourceNotFound("the delivery is past its retention by now")
    (shown,) = await _with_tries(state, [found])
    return Response(json_text.encode(shown), 202, monitor_headers(again), media_type=JSON)


async def _page(state: State, tenant: str, asked: DeliveryQuery, wanted: DeliveryFilter) -> list[WebhookDelivery]:
    """Raises `ResourceNotFound` or `Gone` for a job or batch that does not exist; an empty page means "nothing sent".

    Deliveries that are still there are shown, though what they tell of may be past its retention.
    """
    async with reading(state.engine) as conn:
        page = await webhooks.page(conn, tenant, wanted, asked.limit + 1)
    if not page and asked.job_id is not None:
        await jobs.find(state, tenant, asked.job_id)
    if not page and asked.batch_id is not None:
        await batches.find(state, tenant, asked.batch_id)
    return page


async def _with_tries(state: State, page: Sequence[WebhookDelivery]) -> list[dict[str, Any]]:
    if not page:
        return []
    async with reading(state.engine) as conn:
        tries = await webhooks.attempts_at(conn, [one.id for one in page])
    of: dict[UUID, list[dict[str, Any]]] = {one.id: [] for one in page}
    for each in tries:
        of[each.delivery_id].append(_try(each))
    return [_shown(one) | {"attempts": of[one.id]} for one in page]


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


def _try(one: DeliveryAttempt) -> dict[str, Any]:
    answer = {} if one.answer is None else msgspec.json.decode(one.answer)
    return {
        "attempt": one.attempt,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "outcome": one.outcome,
        "status_code": answer.get("status_code"),
        "body": answer.get("body"),
        "error": None if one.error is None else msgspec.Raw(one.error.encode()),
    }
