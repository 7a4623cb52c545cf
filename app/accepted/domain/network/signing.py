"""Webhook signatures by the Standard Webhooks specification 1.0.0 (symmetric, `v1`)."""

import base64
import hashlib
import hmac
import secrets

PREFIX = "whsec_"


def new_secret() -> str:
    """A new secret: `whsec_` and 32 random bytes in base64 (the specification asks for 24 to 64 bytes)."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def is_secret(text: str) -> bool:
    """Whether `text` is a secret of this form, with 24 to 64 bytes."""
    try:
        key = _key(text)
    except ValueError:
        return False
    return text.startswith(PREFIX) and 24 <= len(key) <= 64


def headers(webhook_id: str, timestamp: int, body: bytes, secret_list: list[str]) -> dict[str, str]:
    """The three headers of one attempt, with one signature per secret, newest first. `timestamp` is in Unix seconds."""
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    signatures = (
        "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()
        for secret in secret_list
    )
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
