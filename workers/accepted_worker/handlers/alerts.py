"""The handler of `alert.deliver`: one POST to ACCEPTED_ALERT_URL, signed where ACCEPTED_WEBHOOK_SECRET is set.

The operator chose the address, so its host is allowed whatever it is; to this handler alone, not to jobs of clients.
"""

from typing import Any

from pydantic import BaseModel

from accepted import Context, job
from accepted.domain.failures import TransientError
from accepted.domain.job import ALERT_TYPE, WEBHOOK_QUEUE
from accepted.domain.network.urls import allowing_host_of
from accepted.domain.retry import WEBHOOK_RETRY
from accepted.handler import MARK, Handler
from accepted_worker.handlers.webhooks import TIMEOUT, judge, post, result
from accepted_worker.outbound.egress import Egress


class Alert(BaseModel):
    """What to tell: the body as JSON text."""

    event: str


def alert_handler(url: str | None, secret: str | None) -> Handler:
    """The handler. In a worker without `url` it leaves the alert to another worker."""
    egress = None if url is None else Egress(allowing_host_of(url))

    @job(ALERT_TYPE, queue=WEBHOOK_QUEUE, timeout=TIMEOUT + 5, retry=WEBHOOK_RETRY, internal=True)
    async def alert(payload: Alert, ctx: Context) -> dict[str, Any]:
        """Tells the operator of dead letters."""
        if url is None or egress is None:
            raise TransientError("this worker has no ACCEPTED_ALERT_URL")
        answer = await post(egress, url, ctx.job.id, payload.event, [secret] if secret else [])
        judge(answer)
        return result(answer, ctx.max_result_bytes)

    handler: Handler = alert.__dict__[MARK]
    return handler
