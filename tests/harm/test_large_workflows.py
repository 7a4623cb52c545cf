"""The largest workflow that is accepted, whose first job fails: its end is recorded at once, the rest in rounds."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.faults.table import Measured
from tests.support.clients.client import Client
from tests.support.service.running_service import serving, types_known
from tests.support.waiting import until

JOBS, WIDTH = 9_991, 10
"""The first job, and layers of ten, each job of which needs all ten of the layer before: 99,810 edges of 100,000."""

PATIENCE = 60.0


def layers(first: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs of the workflow, behind one whose ref is `0`."""
    jobs = [{"ref": "0", **first}]
    for number in range(1, JOBS):
        begin = (number - 1) // WIDTH * WIDTH + 1
        needs = range(begin - WIDTH, begin) if begin > 1 else [0]
        jobs.append({"ref": str(number), "type": "noop", "depends_on": [str(each) for each in needs]})
    return jobs


@pytest.mark.fault("F83", moment="its first job fails, and the scheduler is killed between two rounds")
async def test_the_largest_workflow_ends_in_rounds_which_another_scheduler_finishes(
    database_url: str, measured: Measured
) -> None:
    async with serving(database_url, {"ACCEPTED_AUTH": "off"}) as running:
        client, scheduler = running.client(), running.services["scheduler"]
        await types_known(client)
        failing = {"type": "http.request", "payload": {"url": f"{running.url}/nothing"}}
        answer = await client.http.post("/workflows", json={"jobs": layers(failing)})
        assert answer.status_code == 202, answer.text
        path, first = answer.headers["location"], answer.json()["jobs"][0]["id"]
        failed = await until(lambda: _failed(client, first), PATIENCE, "the failure", interval=0.02)
        seen_at = datetime.now(UTC)
        scheduler.kill()
        assert failed["attempt"] == 1
        took = seen_at - datetime.fromisoformat(failed["started_at"])
        measured("until the failure is recorded", took.total_seconds(), limit=4)
        assert await _some(client, path, "cancelled"), "the first round commits with the failure"
        assert await _some(client, path, "blocked"), "and does not go through all"

        began = time.monotonic()
        scheduler.start()
        await until(lambda: _none_blocked(client, path), PATIENCE, "the end of all others")
        measured("until all others are cancelled", time.monotonic() - began, limit=PATIENCE)
        ended = await until(lambda: _finished(client, path), PATIENCE, "the end of the workflow")
        assert ended["counts"] == {"failed": 1, "cancelled": JOBS - 1}
        assert "LedgerUnavailable" not in running.services["worker"].log()


async def _failed(client: Client, id: str) -> dict[str, Any] | None:
    job = await client.job(id)
    return job if job["status"] == "failed" else None


async def _some(client: Client, path: str, status: str) -> list[dict[str, Any]]:
    query = {"batch_id": path.rpartition("/")[2], "status": status, "limit": "1"}
    answer = await client.get("/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def _none_blocked(client: Client, path: str) -> bool:
    return not await _some(client, path, "blocked")


async def _finished(client: Client, path: str) -> dict[str, Any] | None:
    body: dict[str, Any] = (await client.get(path)).json()
    return body if body["finished"] else None
