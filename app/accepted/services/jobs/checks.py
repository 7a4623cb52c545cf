"""Checks of a job before it is accepted: of a body of POST /jobs, a schedule or a handler that submits a child."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from pydantic import ValidationError

from accepted.domain import json_text
from accepted.domain.ids import new_id
from accepted.domain.job import END_EVENTS, NewJob, Unique
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import UrlRefused, check_url
from accepted.domain.references import is_traceparent
from accepted.errors import FieldError, InvalidRequest, TooLarge
from accepted.services.job_types import CompiledJobType, JobTypeCache
from accepted.services.jobs.requests import YEAR, JobRequest
from accepted.services.jobs.validation import invalid


class JobChecks:
    """Checks bodies of POST /jobs, and makes jobs of them."""

    def __init__(self, type_cache: JobTypeCache, allow: EgressAllow, max_payload_bytes: int) -> None:
        self._type_cache = type_cache
        self._allow = allow
        self._max_payload_bytes = max_payload_bytes

    async def check(
        self, tenant: str, parsed: Any, traceparent: str | None, model: type[JobRequest] = JobRequest
    ) -> NewJob:
        """The job that the body asks for; `model` may know more fields. Raises `InvalidRequest` or `TooLarge`."""
        if not isinstance(parsed, dict):
            raise InvalidRequest([FieldError("", "must be an object")])
        try:
            asked = model.model_validate(parsed)
        except ValidationError as error:
            raise invalid(error, model) from None
        known = await self._type_cache.get(asked.type)
        payload = json_text.encode(asked.payload)
        if len(payload) > self._max_payload_bytes:
            raise TooLarge(f"the payload is larger than {self._max_payload_bytes} bytes")
        known.check(asked.payload)
        _check_times(asked)
        if asked.callback_url is None and asked.callback_events is not None:
            raise InvalidRequest([FieldError("/callback_events", "needs a callback_url")])
        self.check_callback(asked.callback_url)
        return _new_job(tenant, asked, known, payload.decode(), traceparent)

    def check_callback(self, url: str | None) -> None:
        """Raises `InvalidRequest` for a `callback_url` that is wrong on its face."""
        if url is None:
            return
        try:
            check_url(url, self._allow)
        except UrlRefused as refused:
            raise InvalidRequest([FieldError("/callback_url", str(refused))]) from None


def _check_times(asked: JobRequest) -> None:
    """A past `expires_at` is accepted, and expires: a replay of its key must find the first job, however late."""
    if asked.run_at is None:
        return
    if asked.delay is not None:
        raise InvalidRequest([FieldError("/delay", "give run_at or delay, not both")])
    if asked.run_at > datetime.now(UTC) + timedelta(seconds=YEAR):
        raise InvalidRequest([FieldError("/run_at", "must be at most 366 days ahead")])


def _new_job(tenant: str, asked: JobRequest, known: CompiledJobType, payload: str, traceparent: str | None) -> NewJob:
    policy = None if asked.retry is None else asked.retry.over(known.type.retry)
    return NewJob(
        id=new_id(),
        tenant=tenant,
        type=asked.type,
        queue=asked.queue or known.type.queue,
        payload=payload,
        priority=asked.priority,
        max_attempts=(policy or known.type.retry).max_attempts,
        retry=None if policy is None else msgspec.json.encode(policy).decode(),
        timeout=asked.timeout,
        run_at=asked.run_at,
        delay=None if asked.delay is None else float(asked.delay),
        expires_at=asked.expires_at,
        callback_url=asked.callback_url,
        callback_events=END_EVENTS if asked.callback_events is None else tuple(asked.callback_events),
        tags=tuple(asked.tags),
        metadata=json_text.encode(asked.metadata).decode() if asked.metadata else "{}",
        traceparent=traceparent if traceparent and is_traceparent(traceparent) else None,
        concurrency_key=asked.concurrency_key,
        ordering_key=asked.ordering_key,
        unique=None if asked.unique is None else Unique(asked.unique.key, asked.unique.until),
    )
