"""A client that behaves as ours are told to: it sends each job under a key, and again until it hears 202.

Every call is written down and synced, before and after: what was attempted, what came back and how long that took.
The checker holds the ledger against it.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import httpx

from tests.faults import effects
from tests.faults.checker import Verdict
from tests.faults.journal import Journal
from tests.support.loopback import TRUSTS_NOBODY

TIMEOUT = 15.0  # seconds for one call; three times what the service promises
BETWEEN = 0.05  # seconds between the tries of one client
GIVE_UP = 90.0  # seconds of trying

ACCEPTED = 202


@dataclass(frozen=True)
class Call:
    """One submission as the client saw it. `status` is None when there was no answer at all."""

    key: str
    status: int | None
    job_id: str | None
    replayed: bool
    retry_after: str | None
    seconds: float
    at: float

    @property
    def accepted(self) -> bool:
        return self.status == ACCEPTED


class Client:
    """`async with Client(url, directory) as client`; `calls` is the journal, in memory and on disk.

    After `visit`, calls go to several APIs in turn.
    """

    def __init__(self, url: str, directory: Path) -> None:
        limits = httpx.Limits(max_connections=200)
        self._http = httpx.AsyncClient(trust_env=False, verify=TRUSTS_NOBODY, timeout=TIMEOUT, limits=limits)
        self._urls = [url]
        self._turns = itertools.cycle(self._urls)
        self._journal = Journal(directory / "calls")
        self._numbers = itertools.count()
        self._run = uuid4().hex[:8]
        self.attempted: set[str] = set()
        self.calls: list[Call] = []
        self.verdict: Verdict | None = None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        self._journal.close()

    @property
    def acknowledged(self) -> dict[str, set[str]]:
        """The ids answered with 202, by key: one each, if all is well."""
        found: dict[str, set[str]] = defaultdict(set)
        for call in self.calls:
            if call.accepted and call.job_id is not None:
                found[call.key].add(call.job_id)
        return found

    @property
    def ids(self) -> set[str]:
        return {job_id for ids in self.acknowledged.values() for job_id in ids}

    def visit(self, url: str) -> None:
        """Another API that calls go to, in turn with the others."""
        self._urls.append(url)
        self._turns = itertools.cycle(self._urls)

    def new_key(self) -> str:
        return f"{self._run}-{next(self._numbers)}"

    async def submit(self, payload: dict[str, Any] | None = None, *, key: str | None = None, **fields: Any) -> Call:
        """One call, whatever comes of it. The key is in the metadata too, so that SQL finds two jobs of one key."""
        key = key or self.new_key()
        self.attempted.add(key)
        body = {"type": effects.TYPE, "payload": payload or {}, "metadata": {"key": key}, **fields}
        await self._journal.note({"attempt": key, "body": body})
        begun = time.monotonic()
        try:
            answer = await self._http.post(f"{next(self._turns)}/jobs", json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError as error:
            return await self._seen(key, begun, None, error=type(error).__name__)
        return await self._seen(key, begun, answer)

    async def accept(self, payload: dict[str, Any] | None = None, *, key: str | None = None, **fields: Any) -> str:
        """Submit under one key until it is accepted, as a client has to; the id."""
        key = key or self.new_key()
        deadline = time.monotonic() + GIVE_UP
        while True:
            call = await self.submit(payload, key=key, **fields)
            if call.accepted:
                assert call.job_id is not None
                return call.job_id
            assert call.status in (None, 429, 500, 503), f"refused: {call}"
            assert time.monotonic() < deadline, f"not accepted within {GIVE_UP:g} s: {call}"
            await asyncio.sleep(BETWEEN)

    async def load(self, count: int, payload: dict[str, Any] | None = None, *, clients: int = 8) -> list[str]:
        """`count` jobs, accepted one way or another by `clients` at once; their ids."""
        numbers = iter(range(count))

        async def one() -> list[str]:
            return [await self.accept(payload) for _ in numbers]

        return [job_id for ids in await asyncio.gather(*(one() for _ in range(clients))) for job_id in ids]

    async def _seen(self, key: str, begun: float, answer: httpx.Response | None, error: str = "") -> Call:
        ok = answer is not None and answer.status_code == ACCEPTED
        call = Call(
            key=key,
            status=None if answer is None else answer.status_code,
            job_id=answer.json()["id"] if ok and answer is not None else None,
            replayed=answer is not None and answer.headers.get("idempotent-replayed") == "true",
            retry_after=None if answer is None else answer.headers.get("retry-after"),
            seconds=time.monotonic() - begun,
            at=time.time(),
        )
        self.calls.append(call)
        await self._journal.note({**asdict(call), "error": error})
        return call
