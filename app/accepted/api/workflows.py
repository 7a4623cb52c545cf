"""POST /workflows: jobs that wait for each other, accepted as one. What becomes of them is a batch's to tell."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.batches import ACCEPTED, REFUSED, answer, key_of
from accepted.api.http.auth import Writer, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.schemas import BatchView
from accepted.api.state import State, state_of
from accepted.domain.batch import Node
from accepted.domain.request_headers import fingerprint
from accepted.services.batches.checks import Members, workflow
from accepted.services.batches.requests import WorkflowJobRequest, WorkflowRequest
from accepted.services.batches.submission import BatchSubmission
from accepted.services.jobs.validation import checked

router = APIRouter(tags=["batches"], dependencies=documented)

PATH = "/workflows"

ALONE = ("unique", "ordering_key")
"""A job of a workflow has its place already: it waits for those that it depends on."""


@router.post(
    PATH,
    status_code=202,
    response_model=BatchView,
    dependencies=[Depends(only_query())],
    responses={**ACCEPTED, **responses_for(*REFUSED)},
    openapi_extra=body_docs(WorkflowRequest),
)
async def submit(request: Request, who: Writer, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
    """Accept up to 10,000 jobs, all or none. Each runs when all that it `depends_on` succeeded."""
    state = state_of(request)
    key = key_of(request, state.settings)
    parsed = await read_json(request, state.settings.max_body_bytes)
    asked = await _checked(state, who.tenant, parsed, request.headers.get("traceparent"))
    if key is not None:
        asked = msgspec.structs.replace(asked, key=key, fingerprint=fingerprint("POST", PATH, parsed))
    return await answer(state, await state.admission.accept_batch(asked))


async def _checked(state: State, tenant: str, parsed: Any, traceparent: str | None) -> BatchSubmission:
    """Each job by itself, then the graph, which is looked at only when every job is right."""
    asked = checked(WorkflowRequest, parsed)
    members = Members(state.job_checks, tenant, asked, traceparent, WorkflowJobRequest, ALONE)
    nodes, jobs = [], []
    async with state.slices as slices:
        for number, one in enumerate(parsed["jobs"]):
            job = await members.check(one, f"/jobs/{number}")
            if job is not None:
                jobs.append(members.spread.placed(job, number, len(asked.jobs)))
                nodes.append(Node(one["ref"], tuple(dict.fromkeys(one.get("depends_on", ())))))
            elif members.too_many_errors:
                break
            await slices.pause()
    batch = msgspec.structs.replace(members.batch(), workflow=True)
    whole = workflow(nodes, jobs)
    return BatchSubmission(batch=batch, jobs=whole.jobs, edges=whole.edges, queues=members.queues)
