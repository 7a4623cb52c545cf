"""Taskiq on RabbitMQ, its results in Redis.

Messages are persistent on a quorum queue, published with confirms, and acked when the result is saved. All of that is
its default, and so are the two worker processes.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from counting import ended
from fastapi import FastAPI
from pydantic import BaseModel
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import RedisAsyncResultBackend

broker = AioPikaBroker(os.environ["PEER_RABBITMQ_URL"]).with_result_backend(
    RedisAsyncResultBackend(os.environ["PEER_REDIS_URL"])
)


class Job(BaseModel):
    type: str
    payload: dict[str, Any]


@broker.task
async def noop(payload: dict[str, Any]) -> None:
    ended()


@asynccontextmanager
async def _connected(_: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=_connected)


@app.post("/jobs", status_code=202)
async def submit(job: Job) -> dict[str, str]:
    return {"id": (await noop.kiq(job.payload)).task_id}
