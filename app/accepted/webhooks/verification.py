"""Webhooks at their receiver: who has sent one, and what it tells. Standard Webhooks 1.0.0, `v1` signatures."""

import hmac
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from accepted.client.fields import BatchFields, JobFields
from accepted.domain.network import signing
from accepted.errors import AcceptedError

TOLERANCE = 300.0
"""Seconds between the clocks of sender and receiver, and that a webhook may take. An older one may be a replay."""

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


class WebhookRefused(AcceptedError):
    """The request is no webhook of the holder of the secret, or an old one. Answer 400, and do nothing."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A verified webhook. `id` is the same on every delivery of it: keep it, to do nothing twice.

    `type` is for example "job.succeeded" or "batch.finished"; `data` is the JSON of that job or batch.
    """

    id: str
    type: str
    timestamp: datetime
    data: dict[str, Any]

    @property
    def job(self) -> JobFields:
        """The job of a `job.…` event."""
        return JobFields(self.data)

    @property
    def batch(self) -> BatchFields:
        """The batch of a `batch.…` event."""
        return BatchFields(self.data)


class HeaderItems(Protocol):
    """Headers, as each framework has them: a mapping in any case, or an email message."""

    def items(self) -> Iterable[tuple[str, str]]: ...


def verify(
    body: bytes | str, headers: HeaderItems, secret: str | Iterable[str], *, tolerance: float = TOLERANCE
) -> WebhookEvent:
    """The event of a webhook whose signature is by one of the secrets. `body` is as it was received, not parsed.

    While a secret is rotated, give both, or one of them: the sender signs with both. Raises `WebhookRefused`, and
    `ValueError` for what is no secret (`whsec_…`).
    """
    content = body.encode() if isinstance(body, str) else bytes(body)
    webhook_id, timestamp, signatures = _read(headers)
    expected = [signing.signature(webhook_id, timestamp, content, one) for one in _secrets(secret)]
    given = signatures.split()
    if not any(hmac.compare_digest(one.encode(), other.encode()) for one in given for other in expected):
        raise WebhookRefused("no signature is by this secret")
    if abs(time.time() - timestamp) > tolerance:
        raise WebhookRefused(f"it was sent more than {tolerance:g} s ago, or by a clock that is wrong")
    return _event(webhook_id, content)


def _read(headers: HeaderItems) -> tuple[str, int, str]:
    lowered = {name.lower(): value for name, value in headers.items()}
    if missing := [name for name in HEADERS if not lowered.get(name)]:
        raise WebhookRefused(f"it has no {missing[0]}")
    webhook_id, timestamp, signatures = (lowered[name] for name in HEADERS)
    if not re.fullmatch("[0-9]{1,12}", timestamp):
        raise WebhookRefused("webhook-timestamp is not a time")
    return webhook_id, int(timestamp), signatures


def _secrets(secret: str | Iterable[str]) -> list[str]:
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets or not all(map(signing.is_secret, secrets)):
        raise ValueError("a secret is whsec_ and 24 to 64 bytes in base64, as GET /webhook-secret gives it")
    return secrets


def _event(webhook_id: str, content: bytes) -> WebhookEvent:
    try:
        event = json.loads(content)
        at = datetime.fromisoformat(event["timestamp"])
        return WebhookEvent(webhook_id, event["type"], at, event["data"])
    except (ValueError, TypeError, KeyError):
        raise WebhookRefused("its body is no event") from None
