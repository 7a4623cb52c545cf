"""Celery on RabbitMQ, its results in Redis.

Messages are persistent on a durable queue. They are acked after the job (`acks_late`), because the default acks them
before, and then a worker that dies loses its jobs. As by default, publishing waits for no confirm, and a worker has a
process for each core. `delay` blocks, so the route is a plain function, which FastAPI runs in its threads.
"""

import os
from typing import Any

from celery import Celery
from counting import ended
from fastapi import FastAPI
from pydantic import BaseModel

celery = Celery("celery_app", broker=os.environ["PEER_RABBITMQ_URL"], backend=os.environ["PEER_REDIS_URL"])
celery.conf.task_acks_late = True

app = FastAPI()


class Job(BaseModel):
    type: str
    payload: dict[str, Any]


@celery.task
def noop(payload: dict[str, Any]) -> None:
    ended()


@app.post("/jobs", status_code=202)
def submit(job: Job) -> dict[str, str]:
    return {"id": noop.delay(job.payload).id}
