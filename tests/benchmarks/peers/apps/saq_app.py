"""SAQ on Redis.

A job is a key and a place in a list; one that a dead worker held is found by the sweep. It lives as long as Redis keeps
what it appended. As by default, a worker has 10 slots. There are two of them, as of ours: one process uses one core.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from counting import ended
from fastapi import FastAPI
from pydantic import BaseModel
from saq import Queue
from saq.types import Context

queue = Queue.from_url(os.environ["PEER_REDIS_URL"])


class Job(BaseModel):
    type: str
    payload: dict[str, Any]


async def noop(_: Context, *, payload: dict[str, Any]) -> None:
    ended()


settings = {"queue": queue, "functions": [noop]}


@asynccontextmanager
async def _connected(_: FastAPI) -> AsyncIterator[None]:
    await queue.connect()
    yield
    await queue.disconnect()


app = FastAPI(lifespan=_connected)


@app.post("/jobs", status_code=202)
async def submit(job: Job) -> dict[str, str]:
    queued = await queue.enqueue("noop", payload=job.payload)
    assert queued is not None
    return {"id": queued.key}
