"""The handler of `webhook.deliver`: one signed POST, by the Standard Webhooks specification.

The id is the delivery job's own, or that of the delivery which it is sent again for, so it is the same on every try;
the timestamp and with it the signature are new on each; the body is what was recorded with the end state, byte for
byte. What the receiver answers is recorded with the attempt, whatever it means for it.
"""

import codecs
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted import Context, job
from accepted.context import HttpAnswer, HttpClient
from accepted.domain.failures import HandlerError, InvalidJob, RateLimited, TransientError
from accepted.domain.job import WEBHOOK_QUEUE, WEBHOOK_TYPE
from accepted.domain.network import signing
from accepted.domain.retry import WEBHOOK_RETRY, parse_retry_after
from accepted.errors import LedgerUnavailable
from accepted.handler import MARK, Handler
from accepted.storage import webhooks
from accepted.storage.db.engine import retry_until_available, transaction
from accepted_worker.attempt.values import size_of, start_of

TIMEOUT = 15.0
"""Seconds for a receiver to answer, in all."""

LEDGER = 600.0
"""Seconds for a ledger that is away to come back, before the delivery begins. It is no fault of the receiver."""

KEPT = 1024
"""Bytes of the receiver's answer that are kept."""

GONE = 410

NOTHING_FOR_DAYS = "given up: every delivery to this URL has failed for 5 days; replay one to have it tried again"

Note = Callable[[AsyncConnection, str, str], Awaitable[None]]


class DeliveryPayload(BaseModel):
    """What to send, and where: of the end of a job or of a batch. `event` is the body as JSON text.

    `redelivery_of` is the delivery that had succeeded and is sent again.
    """

    url: str
    job_id: str | None = None
    batch_id: str | None = None
    event: str
    redelivery_of: UUID | None = None


def webhook_handler(engine: AsyncEngine, default_secret: str | None) -> Handler:
    """The handler, with what it signs with: the tenant's secrets, the first of which is `default_secret` if set."""

    @job(WEBHOOK_TYPE, queue=WEBHOOK_QUEUE, timeout=TIMEOUT + LEDGER, retry=WEBHOOK_RETRY, internal=True)
    async def deliver(payload: DeliveryPayload, ctx: Context) -> dict[str, Any]:
        """Delivers one webhook."""

        async def prepare() -> tuple[list[str], bool | None]:
            async with transaction(engine) as conn:
                fresh = default_secret or signing.new_secret()
                secrets = await webhooks.current_secrets(conn, ctx.job.tenant, fresh)
                given_up = await webhooks.given_up(conn, ctx.job.tenant, payload.url)
                await conn.commit()
                return secrets, given_up

        secrets, given_up = await retry_until_available(prepare, "handler_waits_for_ledger", ctx.job.id)
        if given_up:
            raise InvalidJob(NOTHING_FOR_DAYS)
        try:
            webhook_id = payload.redelivery_of or ctx.job.id
            answer = await post(ctx.egress, payload.url, webhook_id, payload.event, secrets)
            ctx.answer = msgspec.json.encode(shown(answer)).decode()
            judge(answer)
        except HandlerError:
            await _note(webhooks.url_failed, ctx.job.tenant, payload.url)
            raise
        if given_up is not None:
            await _note(webhooks.url_answered, ctx.job.tenant, payload.url)
        return result(answer, ctx.max_result_bytes)

    async def _note(what: Note, tenant: str, url: str) -> None:
        """A ledger that is away must not turn a delivery that was made into one to be made again."""
        with contextlib.suppress(LedgerUnavailable):
            async with transaction(engine) as conn:
                await what(conn, tenant, url)
                await conn.commit()

    handler: Handler = deliver.__dict__[MARK]
    return handler


async def post(egress: HttpClient, url: str, webhook_id: UUID, event: str, secrets: list[str]) -> HttpAnswer:
    """One try at telling `event` (JSON text), signed with each of `secrets`; without any it has no signature.

    Returns whatever was answered, its body up to `KEPT`: the caller judges.
    """
    body = event.encode()
    headers = signing.headers(str(webhook_id), int(time.time()), body, secrets)
    if not secrets:
        del headers["webhook-signature"]
    more = {"content-type": "application/json", "user-agent": "Accepted-Webhooks/1"}
    return await egress.send("POST", url, headers | more, body, timeout=TIMEOUT, max_bytes=KEPT)


def shown(answer: HttpAnswer) -> dict[str, Any]:
    """What is kept of an answer: its body as text, without a character that the cut went through."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return {"status_code": answer.status_code, "body": decoder.decode(answer.body, final=not answer.truncated)}


def result(answer: HttpAnswer, most: int) -> dict[str, Any]:
    """The same in `most` bytes of JSON: what was delivered must not fail on what it was answered."""
    whole = shown(answer)
    return whole | {"body": start_of(whole["body"], most - size_of(whole | {"body": ""}) + len('""'))}


def judge(answer: HttpAnswer) -> None:
    """2xx is a delivery; 410 ends it for good; anything else is tried again, not before a `Retry-After`."""
    status = answer.status_code
    if 200 <= status < 300:
        return
    if status == GONE:
        raise InvalidJob("the receiver answered 410 Gone")
    wait = next((value for name, value in answer.headers if name.lower() == "retry-after"), None)
    if wait is not None and (seconds := parse_retry_after(wait, time.time())) is not None:
        raise RateLimited(f"the receiver answered {status}", retry_after=seconds)
    raise TransientError(f"the receiver answered {status}")
