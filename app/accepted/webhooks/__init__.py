"""For programs that receive webhooks: `accepted.webhooks.verify(body, headers, secret)`."""

from accepted.webhooks.verification import WebhookEvent, WebhookRefused, verify

__all__ = ["WebhookEvent", "WebhookRefused", "verify"]
