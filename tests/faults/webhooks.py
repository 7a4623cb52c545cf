"""The receiver's own journal of webhooks: what came, whether its signature was good, and how it was answered.

Held against the ledger (I5): every job that asked for a webhook has at least one that was answered with 2xx; all tries
of one delivery have the same id and the same bytes; none is forged.
"""

import hashlib
import inspect
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

import standardwebhooks

from tests.faults.cluster import WEBHOOK_SECRET
from tests.support.servers.receiver import Answer, Receiver, Request, Respond
from tests.support.waiting import until

NO_LONGER_WAITING = """
WITH waiting AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE queue = 'webhooks' AND NOT published ORDER BY job_id FOR UPDATE SKIP LOCKED
)
UPDATE outbox o SET due_at = now() FROM waiting WHERE o.job_id = waiting.job_id
"""
"""Lets every wait of a delivery be over at once: the schedule is of days."""

NOTHING_AGAINST = "DELETE FROM targets"
"""Nor is a host in trouble left alone any longer."""


class WebhookJournal:
    """`async with Receiver(journal.respond) as receiver`; `journal.answer` says how, and may be replaced."""

    def __init__(self, directory: Path) -> None:
        self.answer: Respond = lambda _: Answer()
        self.accepted: Counter[str] = Counter()
        self.ids: dict[str, set[str]] = defaultdict(set)
        self.bodies: dict[str, set[str]] = defaultdict(set)
        self.forged: list[str] = []
        self._judge = standardwebhooks.Webhook(WEBHOOK_SECRET)
        self._file = os.open(directory / "webhooks", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def receiver(self) -> Receiver:
        return Receiver(self.respond)

    async def respond(self, request: Request) -> Answer:
        said = self.answer(request)
        answer = await said if inspect.isawaitable(said) else said
        job_id, webhook_id = json.loads(request.body)["data"]["id"], request.headers["webhook-id"]
        self.ids[job_id].add(webhook_id)
        self.bodies[job_id].add(hashlib.sha256(request.body).hexdigest())
        self.accepted[job_id] += answer.raw is None and 200 <= answer.status < 300
        try:
            self._judge.verify(request.body, dict(request.headers))
        except standardwebhooks.WebhookVerificationError:
            self.forged.append(webhook_id)
        line = {"job": job_id, "id": webhook_id, "at": request.at, "status": None if answer.raw else answer.status}
        os.write(self._file, json.dumps(line).encode() + b"\n")
        return answer

    async def check(self, job_ids: Collection[str], *, within: float = 30.0) -> None:
        """Every one of these jobs was told, once or more, under one id and with one body."""
        wanted = set(job_ids)
        await until(lambda: not self.missing(wanted), within, lambda: f"webhooks of {sorted(self.missing(wanted))[:5]}")
        assert not self.forged, f"signatures that do not fit: {self.forged[:5]}"
        several = {job_id for job_id in wanted if len(self.ids[job_id]) != 1 or len(self.bodies[job_id]) != 1}
        assert not several, f"told under several ids, or with several bodies: {sorted(several)[:5]}"

    def missing(self, wanted: set[str]) -> set[str]:
        return {job_id for job_id in wanted if not self.accepted[job_id]}
