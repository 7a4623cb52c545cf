"""What `GET /jobs/{id}/explain` says, for tests of it."""

from datetime import UTC, datetime
from typing import Any

from tests.support.clients.client import Client


async def why(client: Client, job: Any, reason: str, *named: str) -> dict[str, Any]:
    """The explanation of `job`: its reason, and that the sentence names what it should."""
    answer = await client.get(f"/jobs/{job['id']}/explain")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["reason"] == reason, found
    assert found["id"] == job["id"]
    assert found["status"] == (await client.job(job["id"]))["status"]
    assert found["detail"].endswith(".")
    for text in named:
        assert text in found["detail"], found
    return found


async def submit(client: Client, count: int = 1, **fields: Any) -> list[Any]:
    return [await client.submit(**({"queue": "q"} | fields)) for _ in range(count)]


def seconds_from_now(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
