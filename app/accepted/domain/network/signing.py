"""Webhook signatures by the Standard Webhooks specification 1.0.0 (symmetric, `v1`)."""

import base64
import hashlib
import hmac
import secrets

from accepted.domain.tenants import DEFAULT_TENANT

PREFIX = "whsec_"


def new_secret() -> str:
    """A new secret: `whsec_` and 32 random bytes in base64 (the specification asks for 24 to 64 bytes)."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def first_secret(master: str | None, tenant: str) -> str:
    """The first secret of `tenant`: derived from `master`, or new if there is none.

    Who has one tenant's secret learns nothing of another's. The tenant of callers without authentication is alone with
    its service, so its secret is `master` itself: `secret_of_tenant` is for where it is not.
    """
    if master is None:
        return new_secret()
    return master if tenant == DEFAULT_TENANT else secret_of_tenant(master, tenant)


def secret_of_tenant(master: str, tenant: str) -> str:
    """The secret that is derived for `tenant`, whatever its name."""
    return _derived(master, f"tenant {tenant}")


def secret_of_alerts(master: str) -> str:
    """The secret that signs alerts to the operator, which no tenant has."""
    return _derived(master, "alerts")


def is_secret(text: str) -> bool:
    """Whether `text` is a secret of this form, with 24 to 64 bytes."""
    try:
        key = _key(text)
    except ValueError:
        return False
    return text.startswith(PREFIX) and 24 <= len(key) <= 64


def headers(webhook_id: str, timestamp: int, body: bytes, secret_list: list[str]) -> dict[str, str]:
    """The three headers of one attempt, with one signature per secret, newest first. `timestamp` is in Unix seconds."""
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(webhook_id, timestamp, body, secret) for secret in secret_list),
    }


def signature(webhook_id: str, timestamp: int, body: bytes, secret: str) -> str:
    """What one secret signs: `v1,` and base64."""
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def _derived(master: str, label: str) -> str:
    """32 bytes by HMAC-SHA256 over the label, which is a pseudorandom function (NIST SP 800-108)."""
    derived = hmac.new(_key(master), f"accepted webhook secret\0{label}".encode(), hashlib.sha256).digest()
    return PREFIX + base64.b64encode(derived).decode()


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
