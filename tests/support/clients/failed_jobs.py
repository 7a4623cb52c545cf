"""Jobs that failed once and would succeed now."""

from typing import Any

from tests.support.clients.client import Client, Job

FAILS_ONCE: dict[str, Any] = {
    "type": "sleep", "payload": {"seconds": 0, "fail_attempts": 1}, "retry": {"max_attempts": 1},
}  # fmt: skip


async def failed(client: Client, **fields: Any) -> Job:
    job = await client.finish(**{**FAILS_ONCE, **fields})
    assert job["status"] == "failed", job
    return job


async def post(client: Client, path: str, body: Any = None) -> Any:
    return await client.http.post(path, json=body)
