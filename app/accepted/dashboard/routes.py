"""All pages, put into the application."""

import asyncio

from fastapi import FastAPI
from starlette.responses import Response

from accepted.dashboard import live, templates
from accepted.dashboard.calls import SharedAnswers
from accepted.dashboard.pages import (
    batches,
    dead_letters,
    job,
    job_acts,
    jobs,
    keys,
    many_jobs,
    overview,
    queues,
    runbook,
    schedules,
    signing_in,
    submit,
    webhooks,
    workers,
)
from accepted.dashboard.routing import pages
from accepted.errors import ResourceNotFound

PAGES = (
    overview, jobs, many_jobs, job, job_acts, queues, dead_letters, schedules, batches, webhooks, workers, submit,
    keys, runbook, signing_in, live,
)  # fmt: skip
"""Modules with a `router`."""

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

STATIC_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}

files = pages()


class Dashboard:
    """What all pages of one process share."""

    def __init__(self) -> None:
        self.answers = SharedAnswers()
        self.ticker = live.Ticker()


def install(app: FastAPI) -> None:
    """Serve the dashboard. Nothing is loaded or read before the first page is asked for."""
    app.state.dashboard = Dashboard()
    for part in PAGES:
        app.include_router(part.router)
    app.include_router(files)


@files.get("/ui/static/{name}")
async def static(name: str) -> Response:
    found = await asyncio.to_thread(templates.content, name)
    kind = TYPES.get(name.rpartition(".")[2])
    if found is None or kind is None:
        raise ResourceNotFound
    return Response(found, headers=STATIC_HEADERS, media_type=kind)


@files.get("/ui/{rest:path}")
async def nowhere(rest: str) -> Response:
    raise ResourceNotFound
