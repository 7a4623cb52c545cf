"""POST /jobs/{id}/cancel: a waiting job ends at once, a running one as soon as its handler lets go."""

from uuid import UUID

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Writer, documented
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.answers import monitor_headers
from accepted.api.jobs.reading import find
from accepted.api.schemas import JobView
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.job import to_wire
from accepted.services.jobs.cancellation import cancel as cancel_job

router = APIRouter(tags=["jobs"], dependencies=[*documented, Depends(only_query())])


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    response_model=JobView,
    responses={
        202: {
            "description": "The job: cancelled, or running and to be cancelled.",
            "headers": header_docs("Location", "Operation-Location", "Link", "Retry-After"),
        },
        **responses_for(
            errors.ResourceNotFound,
            errors.Gone,
            errors.Conflict,
            errors.InvalidRequest,
            errors.Unauthenticated,
            errors.Forbidden,
            errors.LedgerUnavailable,
        ),
    },
)
async def cancel(request: Request, who: Writer, job_id: UUID) -> Response:
    """Cancel a job that has not finished. A running one may still succeed, if it does so before it is told."""
    state = state_of(request)
    job = await cancel_job(state.engine, state.broker, await find(state, who.tenant, job_id))
    return Response(json_text.encode(to_wire(job)), 202, monitor_headers(job), media_type=JSON)
