"""Webhooks and alerts of a machine whose clock is wrong: receivers refuse a timestamp that is minutes off."""

import json
import time
from datetime import datetime

import pytest

from tests.faults.cluster import misled
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import serving, types_known

HOUR = 3600
TOLERATED = 60
"""Seconds; the libraries of Standard Webhooks tolerate 300."""


@pytest.mark.fault("F95", moment="the clock of the worker is an hour late, that of the ledger is not")
async def test_webhooks_have_the_time_of_the_ledger(database_url: str) -> None:
    async with Receiver() as receiver:
        env = {"ACCEPTED_AUTH": "off", "ACCEPTED_ALERT_URL": f"{receiver.url}/alerts"}
        async with serving(database_url, env | misled(CLOCK_OFFSET=str(-HOUR))) as running:
            client = running.client()
            await types_known(client)
            url = "http://127.0.0.1:1/"
            await client.submit(
                "http.request", {"url": url}, retry={"max_attempts": 1}, callback_url=f"{receiver.url}/hooks"
            )
            sent = await receiver.wait_for(2, 60)
    assert {request.path for request in sent} == {"/hooks", "/alerts"}
    for request in sent:
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < TOLERATED
        at = datetime.fromisoformat(json.loads(request.body)["timestamp"])
        assert abs(at.timestamp() - time.time()) < TOLERATED
