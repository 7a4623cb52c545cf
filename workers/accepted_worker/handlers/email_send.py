"""The job type `email.send`: one message, handed to the operator's mail server.

Who is refused for good is named in the result, and the others get it. If anybody is refused for now, nobody has got
it and the job is tried again, so that no retry brings it to anyone twice; only the last attempt leaves such people out.
"""

from typing import Any

from accepted import Context, job
from accepted.context import MailServer
from accepted.domain.failures import InvalidJob
from accepted.domain.job import Job
from accepted_worker.handlers.email_message import Email, address_of, compose


@job("email.send", timeout=300, description="Send an e-mail.")
async def email_send(payload: Email, ctx: Context) -> dict[str, Any]:
    """The result is that of `deliver`."""
    return await deliver(payload, ctx.job, ctx.mail)


async def deliver(email: Email, running: Job, mail: MailServer) -> dict[str, Any]:
    """Result: `message_id`, `accepted` (addresses), `refused` (address to the server's words).

    The Message-ID is the job's id, the same on every attempt: when the answer to a message was lost, and it is sent
    again, whoever receives it can tell that it is the same.
    """
    mailbox = email.sender or mail.sender
    if mailbox is None:
        raise InvalidJob("`from` is missing, and ACCEPTED_SMTP_FROM is not set")
    sender = address_of(mailbox)
    message_id = f"{running.id}@{sender.domain}"
    recipients = email.recipients()
    refused = await mail.send(
        sender.addr_spec,
        recipients,
        compose(email, sender, message_id),
        leave_out_busy=running.attempt >= running.max_attempts,
    )
    accepted = [address for address in recipients if address not in refused]
    return {"message_id": f"<{message_id}>", "accepted": accepted, "refused": refused}
