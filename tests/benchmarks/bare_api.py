"""What submissions are held against: a FastAPI application that validates a body with pydantic and does nothing.

Served by stock uvicorn with the loop, parser and flags of `accepted.api.http.server`, in one process.
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from accepted.api.http.server import BACKLOG

app = FastAPI()


class Job(BaseModel):
    type: str
    payload: dict[str, Any]
    queue: str | None = None


@app.post("/jobs", status_code=202)
async def submit(job: Job) -> dict[str, Any]:
    """Answers at once."""
    return {"type": job.type, "status": "queued"}


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
    )
