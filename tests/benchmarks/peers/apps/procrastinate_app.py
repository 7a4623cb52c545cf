"""Procrastinate on PostgreSQL.

A job is a row, committed before the 202; its outcome is a commit of its own. A worker has one slot by default. Here it
has 10, in two processes, as ours: its documentation asks for more slots where jobs wait for I/O.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from procrastinate import App, PsycopgConnector
from pydantic import BaseModel

procrastinate = App(connector=PsycopgConnector(conninfo=os.environ["PEER_POSTGRES_URL"]))


class Job(BaseModel):
    type: str
    payload: dict[str, Any]


@procrastinate.task(name="noop")
async def noop(payload: dict[str, Any]) -> None:
    pass


@asynccontextmanager
async def _connected(_: FastAPI) -> AsyncIterator[None]:
    async with procrastinate.open_async():
        yield


app = FastAPI(lifespan=_connected)


@app.post("/jobs", status_code=202)
async def submit(job: Job) -> dict[str, int]:
    return {"id": await noop.defer_async(payload=job.payload)}
