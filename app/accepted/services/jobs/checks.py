"""Checks of a job before it is accepted, whether a client, a batch, a schedule or a handler submits it."""

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
from pydantic import ValidationError

from accepted.domain import json_text
from accepted.domain.ids import new_id
from accepted.domain.job import END_EVENTS, RESERVED_QUEUE, WEBHOOK_QUEUE, NewJob, Unique
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import UrlRefused, check_url
from accepted.domain.references import is_traceparent
from accepted.errors import FieldError, InvalidRequest, TooLarge
from accepted.services.job_types.compiled import CompiledJobType
from accepted.services.jobs.requests import YEAR, JobRequest
from accepted.services.jobs.validation import invalid


class KnownTypes(Protocol):
    """The job types that a tenant may submit."""

    async def get(self, tenant: str, name: str, /) -> CompiledJobType:
        """Raises `InvalidRequest` for a name that is none of them."""
        ...


class JobChecks:
    """Checks the body of a job, and makes the job of it."""

    def __init__(self, types: KnownTypes, allow: EgressAllow, max_payload_bytes: int) -> None:
        self._types = types
        self._allow = allow
        self._max_payload_bytes = max_payload_bytes

    async def check(
        self, tenant: str, parsed: Any, traceparent: str | None, model: type[JobRequest] = JobRequest
    ) -> NewJob:
        """The job that the body describes; `model` may have more fields. Raises `InvalidRequest` or `TooLarge`."""
        if not isinstance(parsed, dict):
            raise InvalidRequest([FieldError("", "must be an object")])
        try:
            request = model.model_validate(parsed)
        except ValidationError as error:
            raise invalid(error, model) from None
        known = await self._types.get(tenant, request.type)
        payload = json_text.encode(request.payload)
        if len(payload) > self._max_payload_bytes:
            raise TooLarge(f"the payload is larger than {self._max_payload_bytes} bytes")
        known.check(request.payload, payload)
        _check_times(request)
        if (request.queue or known.type.queue) == WEBHOOK_QUEUE:
            raise InvalidRequest([FieldError("/queue", RESERVED_QUEUE)])
        if request.callback_url is None and request.callback_events is not None:
            raise InvalidRequest([FieldError("/callback_events", "needs a callback_url")])
        self.check_callback(request.callback_url)
        return _new_job(tenant, request, known, payload.decode(), traceparent)

    def check_callback(self, url: str | None) -> None:
        """Raises `InvalidRequest` for a `callback_url` that may not be called. Its host is not resolved here."""
        if url is None:
            return
        try:
            check_url(url, self._allow)
        except UrlRefused as refused:
            raise InvalidRequest([FieldError("/callback_url", str(refused))]) from None


def _check_times(request: JobRequest) -> None:
    """A past `expires_at` is accepted, because a late replay of the request must find the first job."""
    if request.run_at is None:
        return
    if request.delay is not None:
        raise InvalidRequest([FieldError("/delay", "give run_at or delay, not both")])
    if request.run_at > datetime.now(UTC) + timedelta(seconds=YEAR):
        raise InvalidRequest([FieldError("/run_at", "must be at most 366 days ahead")])


_CONVERTED = {"queue", "payload", "retry", "delay", "callback_events", "tags", "metadata", "unique"}
_AS_GIVEN = [name for name in JobRequest.model_fields if name in NewJob.__struct_fields__ and name not in _CONVERTED]
"""Fields that a request and a new job have alike."""


def _new_job(tenant: str, request: JobRequest, known: CompiledJobType, payload: str, traceparent: str | None) -> NewJob:
    policy = None if request.retry is None else request.retry.over(known.type.retry)
    return NewJob(
        **{name: getattr(request, name) for name in _AS_GIVEN},
        id=new_id(),
        tenant=tenant,
        queue=request.queue or known.type.queue,
        payload=payload,
        max_attempts=(policy or known.type.retry).max_attempts,
        retry=None if policy is None else msgspec.json.encode(policy).decode(),
        delay=None if request.delay is None else float(request.delay),
        callback_events=END_EVENTS if request.callback_events is None else tuple(request.callback_events),
        tags=tuple(request.tags),
        metadata=json_text.encode(request.metadata).decode() if request.metadata else "{}",
        traceparent=traceparent if traceparent and is_traceparent(traceparent) else None,
        unique=None if request.unique is None else Unique(request.unique.key, request.unique.until),
    )
