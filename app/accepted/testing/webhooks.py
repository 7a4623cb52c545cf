"""Signed webhooks, as the service sends them, for tests of receivers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.ids import new_id
from accepted.domain.job import Job, Status, to_wire
from accepted.domain.network import signing
from accepted.domain.tenants import DEFAULT_TENANT


@dataclass(frozen=True)
class SignedWebhook:
    """A request: POST `body` with `headers`. `accepted.webhooks.verify(body, headers, secret)` accepts it."""

    body: bytes
    headers: dict[str, str]
    secret: str


def signed_webhook(
    type: str = "job.succeeded",
    data: Mapping[str, Any] | None = None,
    *,
    secret: str | None = None,
    webhook_id: str | None = None,
    age: float = 0.0,
) -> SignedWebhook:
    """A webhook of this type. `data` are fields of the job that it is about, over those of a job of type `noop`.

    Without a `secret` it has one of its own. `webhook_id` is the same for each try of a delivery. `age` is how many
    seconds ago it was signed: receivers refuse old ones.
    """
    secret = secret or signing.new_secret()
    at = time.time() - age
    event = {"type": type, "timestamp": datetime.fromtimestamp(at, UTC), "data": _job(type) | dict(data or {})}
    body = msgspec.json.encode(event)
    headers = signing.headers(webhook_id or f"msg_{new_id()}", int(at), body, [secret])
    return SignedWebhook(body, {"content-type": "application/json", **headers}, secret)


def _job(event: str) -> dict[str, Any]:
    now, id = datetime.now(UTC), UUID(str(new_id()))
    status = event.removeprefix("job.")
    job = Job(
        id=id, tenant=DEFAULT_TENANT, type="noop", queue="default", status=status, priority=4, attempt=1,
        max_attempts=5, payload="{}", result="null" if status == Status.SUCCEEDED else None, created_at=now, run_at=now,
        started_at=now, finished_at=now,
    )  # fmt: skip
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(to_wire(job)))
    return shown
