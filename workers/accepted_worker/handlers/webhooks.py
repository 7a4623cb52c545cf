"""The handlers of `webhook.deliver` and `alert.deliver`: one signed POST, by the Standard Webhooks specification.

The `webhook-id` of a webhook is the id of its delivery job, or of the delivery that is sent again, so it is the same on
every try; the timestamp and the signature are new on each. The timestamp is by the ledger's clock, because receivers
refuse one that is minutes off, as a worker's clock may be. The body is what was recorded with the end, byte for byte.
The receiver's answer is recorded with the attempt, whatever its status.

An alert goes to ACCEPTED_ALERT_URL. The operator chose that address, so its host is always allowed, but to that handler
alone, not to jobs of clients.
"""

import asyncio
import codecs
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted import Context, job
from accepted.concurrency import Coalescer
from accepted.context import HttpAnswer, HttpClient
from accepted.domain.failures import HandlerError, InvalidJob, RateLimited, TransientError
from accepted.domain.job import ALERT_TYPE, WEBHOOK_QUEUE, WEBHOOK_TYPE
from accepted.domain.network import signing
from accepted.domain.network.urls import allowing_host_of
from accepted.domain.retry import WEBHOOK_RETRY, parse_retry_after
from accepted.errors import LedgerUnavailable
from accepted.handler import Handler, handler_of
from accepted.services.webhooks import receiver_key
from accepted.storage import webhooks
from accepted.storage.db.engine import retry_until_available, transaction
from accepted_worker.attempt.values import size_of, start_of
from accepted_worker.outbound.egress import Egress

TIMEOUT = 15.0
"""Seconds for a whole call of a receiver."""

LEDGER = 600.0
"""Seconds that a delivery waits for the ledger before it begins: an outage is not the receiver's fault."""

LEDGER_CONNECTIONS = 4
"""Connections of the worker's pool that deliveries take at once: handlers need the others."""

PREPARED_AT_ONCE = 100
"""Deliveries whose secrets are read in one transaction."""

TIMES_EVERY = 1.0
"""Seconds between two writes of how long receivers take to answer."""

KEPT = 1024
"""Bytes of the receiver's answer that are kept."""

GONE = 410

NOTHING_FOR_DAYS = "given up: every delivery to this URL has failed for 5 days; replay one to have it tried again"

Note = Callable[[AsyncConnection, str, str], Awaitable[None]]


class DeliveryPayload(BaseModel):
    """The event of a job or batch, and where to send it. `event` is the body as JSON text.

    `redelivery_of` is the delivery that succeeded and is sent again.
    """

    url: str
    job_id: str | None = None
    batch_id: str | None = None
    event: str
    redelivery_of: UUID | None = None


class Prepared(NamedTuple):
    """What a delivery needs: the secrets that sign it, and whether its URL is given up; None if it has not failed."""

    secrets: list[str]
    given_up: bool | None


class _AnswerTimes:
    """How long receivers took to answer: gathered, and written with the first answer after `TIMES_EVERY` seconds."""

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}
        self._write_at = 0.0

    def add(self, receiver: str, seconds: float) -> dict[str, float]:
        """Count an answer, or the lack of it. Returns the means to write now, by receiver."""
        self._taken.setdefault(receiver, []).append(seconds)
        if time.monotonic() < self._write_at:
            return {}
        self._write_at = time.monotonic() + TIMES_EVERY
        taken, self._taken = self._taken, {}
        return {key: sum(each) / len(each) for key, each in taken.items()}


def webhook_handler(engine: AsyncEngine, master_secret: str | None, egress: HttpClient | None = None) -> Handler:
    """The handler. It signs with the tenant's secrets, the first of which comes from `master_secret` if that is set.

    With an `egress` of its own, its calls and name look-ups do not wait for those of other handlers.
    """
    times = _AnswerTimes()
    ledger = asyncio.Semaphore(LEDGER_CONNECTIONS)

    async def prepare(wanted: list[tuple[str, str]]) -> list[Prepared]:
        """For (tenant, URL): a transaction costs as much for one delivery as for all that begin together."""
        async with ledger, transaction(engine) as conn:
            secrets = {
                tenant: await webhooks.current_secrets(conn, tenant, signing.first_secret(master_secret, tenant))
                for tenant in sorted({tenant for tenant, _ in wanted})
            }
            failing = await webhooks.failing(conn, sorted(set(wanted)))
            await conn.commit()
        return [Prepared(secrets[tenant], failing.get((tenant, url))) for tenant, url in wanted]

    prepared = Coalescer(prepare, max_batch=PREPARED_AT_ONCE)

    @job(WEBHOOK_TYPE, queue=WEBHOOK_QUEUE, timeout=TIMEOUT + LEDGER, retry=WEBHOOK_RETRY, internal=True)
    async def deliver(payload: DeliveryPayload, ctx: Context) -> dict[str, Any]:
        """Delivers one webhook."""
        now = _ledger_clock(ctx)

        secrets, given_up = await retry_until_available(
            lambda: prepared((ctx.job.tenant, payload.url)), "handler_waits_for_ledger", ctx.job.id
        )
        if given_up:
            raise InvalidJob(NOTHING_FOR_DAYS)
        begun = time.monotonic()
        try:
            webhook_id = payload.redelivery_of or ctx.job.id
            answer = await post(egress or ctx.egress, payload.url, webhook_id, payload.event, secrets, now())
            ctx.answer = msgspec.json.encode(shown(answer)).decode()
            judge(answer)
        except HandlerError:
            await _count(ctx.job.tenant, payload.url, time.monotonic() - begun)
            await _note(webhooks.url_failed, ctx.job.tenant, payload.url)
            raise
        await _count(ctx.job.tenant, payload.url, time.monotonic() - begun)
        if given_up is not None:
            await _note(webhooks.url_answered, ctx.job.tenant, payload.url)
        return result(answer, ctx.max_result_bytes)

    async def _note(what: Note, tenant: str, url: str) -> None:
        """Writes nothing while the ledger is away: that must not repeat a delivery that was made."""
        with contextlib.suppress(LedgerUnavailable):
            async with ledger, transaction(engine) as conn:
                await what(conn, tenant, url)
                await conn.commit()

    async def _count(tenant: str, url: str, seconds: float) -> None:
        with contextlib.suppress(LedgerUnavailable):
            if taken := times.add(receiver_key(tenant, url), seconds):
                async with ledger, transaction(engine) as conn:
                    await webhooks.answered_in(conn, taken)
                    await conn.commit()

    return handler_of(deliver)


async def post(
    egress: HttpClient, url: str, webhook_id: UUID, event: str, secrets: list[str], now: float
) -> HttpAnswer:
    """POST `event` (JSON text), signed with each of `secrets`; unsigned if there are none. `now` is in Unix seconds.

    Returns the answer of any status, with up to `KEPT` bytes of its body.
    """
    body = event.encode()
    headers = signing.headers(str(webhook_id), int(now), body, secrets)
    if not secrets:
        del headers["webhook-signature"]
    more = {"content-type": "application/json", "user-agent": "Accepted-Webhooks/1"}
    return await egress.send("POST", url, headers | more, body, timeout=TIMEOUT, max_bytes=KEPT)


def _ledger_clock(ctx: Context) -> Callable[[], float]:
    """Unix seconds by the ledger's clock, which has said when this attempt began. Call it as the handler begins."""
    begun = time.monotonic()
    assert ctx.job.started_at is not None
    started_at = ctx.job.started_at.timestamp()
    return lambda: started_at + time.monotonic() - begun


def shown(answer: HttpAnswer) -> dict[str, Any]:
    """The part of an answer that is kept. A character that is cut in two is left out."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return {"status_code": answer.status_code, "body": decoder.decode(answer.body, final=not answer.truncated)}


def result(answer: HttpAnswer, limit: int) -> dict[str, Any]:
    """`shown` in up to `limit` bytes of JSON: a delivery must not fail because of a long answer."""
    whole = shown(answer)
    return whole | {"body": start_of(whole["body"], limit - size_of(whole | {"body": ""}) + len('""'))}


def judge(answer: HttpAnswer) -> None:
    """2xx succeeds and 410 fails at once; anything else is retried, no sooner than its `Retry-After`."""
    status = answer.status_code
    if 200 <= status < 300:
        return
    if status == GONE:
        raise InvalidJob("the receiver answered 410 Gone")
    wait = next((value for name, value in answer.headers if name.lower() == "retry-after"), None)
    if wait is not None and (seconds := parse_retry_after(wait, time.time())) is not None:
        raise RateLimited(f"the receiver answered {status}", retry_after=seconds)
    raise TransientError(f"the receiver answered {status}")


class AlertPayload(BaseModel):
    """The body of an alert, as JSON text."""

    event: str


def alert_handler(url: str | None, secret: str | None) -> Handler:
    """The handler. In a worker without `url` it fails as transient, for another worker to take the alert."""
    egress = None if url is None else Egress(allowing_host_of(url))

    @job(ALERT_TYPE, queue=WEBHOOK_QUEUE, timeout=TIMEOUT + 5, retry=WEBHOOK_RETRY, internal=True)
    async def alert(payload: AlertPayload, ctx: Context) -> dict[str, Any]:
        """Sends one alert about dead letters."""
        if url is None or egress is None:
            raise TransientError("this worker has no ACCEPTED_ALERT_URL")
        now = _ledger_clock(ctx)
        answer = await post(egress, url, ctx.job.id, payload.event, [secret] if secret else [], now())
        judge(answer)
        return result(answer, ctx.max_result_bytes)

    return handler_of(alert)
