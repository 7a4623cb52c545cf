"""A caller of the service, and what it may expect of any answer."""

import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx

from tests.support.loopback import TRUSTS_NOBODY
from tests.support.waiting import until

Job = dict[str, Any]

FINISHED = {"succeeded", "failed", "cancelled", "expired"}
FIELDS = {
    "id",
    "type",
    "queue",
    "status",
    "priority",
    "attempt",
    "max_attempts",
    "payload",
    "result",
    "error",
    "progress",
    "tags",
    "metadata",
    "ordering_key",
    "batch_id",
    "parent_id",
    "root_id",
    "created_at",
    "run_at",
    "expires_at",
    "started_at",
    "finished_at",
    "links",
}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
PATIENCE = 60.0  # seconds: two noisy cores


class Client:
    """Calls as one API key; every answer that it sees is checked for what holds of all answers."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            trust_env=False,
            verify=TRUSTS_NOBODY,
            timeout=90,
            limits=httpx.Limits(max_connections=120),
            event_hooks={"response": [check_answer]},
        )

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def post(self, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        """POST /jobs; `idempotency_key=` and `prefer=` are headers."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/jobs", json=body, headers=sent)

    async def post_bytes(self, body: Any, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/jobs", content=body, headers={"content-type": "application/json"} | sent)

    async def submit(self, type: str = "noop", payload: Mapping[str, Any] | None = None, **fields: Any) -> Job:
        """A job that must be accepted."""
        answer = await self.post({"type": type, "payload": payload or {}, **fields})
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def job(self, id: str) -> Job:
        answer = await self.get(f"/jobs/{id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def attempts(self, id: str) -> list[dict[str, Any]]:
        """All of them: page after page."""
        found: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            answer = await self.get(f"/jobs/{id}/attempts?limit=200{cursor and f'&cursor={cursor}'}")
            assert answer.status_code == 200, answer.text
            found += answer.json()["items"]
            cursor = answer.json()["next"]
        return found

    async def until_status(self, id: str, *wanted: str, timeout: float = PATIENCE) -> Job:
        async def there() -> Job | None:
            job = await self.job(id)
            return job if job["status"] in wanted else None

        return await until(there, timeout, f"job {id} {wanted}", interval=0.1)

    async def finished(self, id: str, timeout: float = PATIENCE) -> Job:
        return await self.until_status(id, *FINISHED, timeout=timeout)

    async def finish(self, type: str = "noop", payload: Mapping[str, Any] | None = None, **fields: Any) -> Job:
        """Submit a job and wait for its end."""
        return await self.finished((await self.submit(type, payload, **fields))["id"])

    @asynccontextmanager
    async def events(self, id: str, last_event_id: str = "") -> AsyncIterator[AsyncIterator["Event"]]:
        headers = {"last-event-id": last_event_id} if last_event_id else {}
        async with self.http.stream("GET", f"/jobs/{id}/events", headers=headers) as answer:
            if answer.status_code != 204:  # there is nothing left to tell
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/event-stream")
            yield read_events(answer.aiter_lines())

    async def all_events(self, id: str, last_event_id: str = "") -> list["Event"]:
        """Every event up to the end of the stream, which the service must bring about."""
        async with self.events(id, last_event_id) as events:
            return [event async for event in events]


Event = dict[str, str]


async def read_events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """The fields of each event of a stream (the HTML standard, section 9.2.6); comments are left out."""
    event: Event = {}
    async for line in lines:
        if not line and "data" in event:
            yield event
        if not line:
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")


async def check_answer(answer: httpx.Response) -> None:
    """No input, whatever it is, gets a 500; each refusal is a problem document (RFC 9457)."""
    assert answer.status_code != 500, f"{answer.request.method} {answer.request.url}"
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        await answer.aread()
        check_problem(answer)


def check_problem(
    answer: httpx.Response, status: int | None = None, pointer: str | None = None, says: str = ""
) -> dict[str, Any]:
    """The document of a refusal, and that it names `pointer` among its errors and `says` so there."""
    assert status is None or answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    document: dict[str, Any] = json.loads(answer.content)
    assert set(document) <= {"type", "title", "status", "detail", "instance", "errors"}, document
    assert document["status"] == answer.status_code
    assert document["type"].startswith("/problems/")
    assert document["title"]
    assert document["detail"]
    assert document["instance"] == answer.request.url.raw_path.decode().partition("?")[0]
    for error in document.get("errors", []):
        assert set(error) == {"pointer", "detail"}, document
        assert error["pointer"] == "" or error["pointer"].startswith("/"), document
    if pointer is not None:
        found = {error["pointer"]: error["detail"] for error in document["errors"]}
        assert pointer in found, document
        assert says in found[pointer], document
    return document


def check_job(job: Job) -> None:
    """The shape of section 3."""
    assert set(job) == FIELDS
    assert UUID7.fullmatch(job["id"])
    for name in ("created_at", "run_at"):
        assert TIME.fullmatch(job[name]), (name, job[name])
    for name in ("expires_at", "started_at", "finished_at"):
        assert job[name] is None or TIME.fullmatch(job[name]), (name, job[name])
    self = f"/jobs/{job['id']}"
    assert job["links"] == {"self": self, "events": f"{self}/events", "cancel": f"{self}/cancel"}


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def from_now(seconds: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.utcfromtimestamp(time.time() + seconds).isoformat() + "Z"
