"""Dramatiq on RabbitMQ, its results in Redis.

Messages are persistent on a durable queue, acked after the job and its result. As by default, publishing waits for no
confirm. `send` blocks, so the route is a plain function, which FastAPI runs in its threads.
"""

import os
from typing import Any

import dramatiq
from counting import ended
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from fastapi import FastAPI
from pydantic import BaseModel

broker = RabbitmqBroker(url=os.environ["PEER_RABBITMQ_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["PEER_REDIS_URL"])))
dramatiq.set_broker(broker)

app = FastAPI()


class Job(BaseModel):
    type: str
    payload: dict[str, Any]


@dramatiq.actor(store_results=True)
def noop(payload: dict[str, Any]) -> None:
    ended()


@app.post("/jobs", status_code=202)
def submit(job: Job) -> dict[str, str]:
    return {"id": noop.send(job.payload).message_id}
