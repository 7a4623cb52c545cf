"""How job types are registered over HTTP and deleted, and how many an owner may have: a tenant, or all of them."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import json_text
from accepted.domain.failures import OnNotFound
from accepted.domain.job import (
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    INTERNAL_TYPES,
    MAX_DESCRIPTION,
    QUEUE_PATTERN,
    RESERVED_QUEUE,
    TYPE_PATTERN,
    WEBHOOK_QUEUE,
    JobType,
)
from accepted.domain.retry import Retry
from accepted.errors import ConfigurationError, Conflict, FieldError, InvalidRequest, ResourceNotFound
from accepted.payload_types import URL_FORMAT
from accepted.services.job_types.payload_schema import SchemaFlaw, check_schema, read_schema
from accepted.services.jobs.requests import MAX_TIMEOUT, Number, RetryRequest
from accepted.services.jobs.validation import checked
from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from accepted.storage.job_types import TypeUse

MAX_TYPES = 300
"""External types of one owner: more than any program has kinds of jobs. Each has a place in every list of them."""

MAX_SCHEMAS = 4 * 2**20
"""Bytes of all their payload schemas: 14 KB for each of 300. A list of the types has them all."""

HANDLED = "a Python worker has a handler for this type"

SERVED = "a worker serves this type, or did a moment ago"

IN_USE = "jobs of this type wait or run"


class JobTypeRequest(BaseModel):
    """A type whose jobs are leased over HTTP. A PUT replaces the whole type: omitted fields get their defaults."""

    model_config = ConfigDict(extra="forbid", title="JobTypeRequest")

    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION)] = ""
    queue: Annotated[StrictStr, Field(pattern=QUEUE_PATTERN)] = DEFAULT_QUEUE
    retry: RetryRequest | None = None
    timeout: Annotated[Number, Field(gt=0, le=MAX_TIMEOUT, description="seconds")] = DEFAULT_TIMEOUT
    not_found: OnNotFound = OnNotFound.FAIL
    payload_schema: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of the payload")


def read(owner: str, name: str, parsed: Any) -> JobType:
    """The external type that the body of a PUT describes. Raises `InvalidRequest`. Compiles its schema."""
    if not re.fullmatch(TYPE_PATTERN, name):
        raise InvalidRequest([FieldError("/name", f"must match {TYPE_PATTERN}")])
    asked = checked(JobTypeRequest, parsed)
    if asked.queue == WEBHOOK_QUEUE:
        raise InvalidRequest([FieldError("/queue", RESERVED_QUEUE)])
    check_schema(asked.payload_schema)
    return JobType(
        name=name,
        description=asked.description,
        queue=asked.queue,
        retry=asked.retry.over(Retry()) if asked.retry else Retry(),
        timeout=asked.timeout,
        payload_schema=json_text.encode(asked.payload_schema).decode(),
        not_found=asked.not_found,
        external=True,
        tenant=owner,
    )


async def put(engine: AsyncEngine, one: JobType, lease_ttl: float) -> bool:
    """Register an external type, and say whether it is new.

    Raises `Conflict` if its owner has too many, or if a live Python worker has a handler of that name.
    """
    if one.name in INTERNAL_TYPES:
        raise Conflict(HANDLED)
    async with transaction(engine) as conn:
        _check_room(one, *await job_types.others(conn, one))
        fresh = await job_types.register_external(conn, one, lease_ttl)
        await conn.commit()
    if fresh is None:
        raise Conflict(HANDLED)
    return fresh


async def delete(engine: AsyncEngine, owner: str, name: str, lease_ttl: float) -> None:
    """Delete a type of this owner. Raises `ResourceNotFound`, or `Conflict` while something needs it."""
    if name in INTERNAL_TYPES:
        raise Conflict(HANDLED)
    async with transaction(engine) as conn:
        use = await job_types.delete(conn, owner, name, lease_ttl)
        await conn.commit()
    if use is None:
        raise ResourceNotFound("no such type")
    if use != TypeUse():
        raise Conflict(_in_words(use))


def check_handled(types: Iterable[JobType]) -> None:
    """Raise `ConfigurationError` for a type of this worker with a payload schema that no API could use."""
    for one in types:
        try:
            read_schema(one.payload_schema, {URL_FORMAT: lambda _: True}, of_client=False)
        except SchemaFlaw as flaw:
            raise ConfigurationError(f"the type {one.name!r} of ACCEPTED_HANDLERS cannot be served: {flaw}") from None


def _check_room(one: JobType, types: int, taken: int) -> None:
    if types >= MAX_TYPES:
        raise Conflict(f"there are {types} types put over HTTP already: delete one that is not needed")
    if taken + len(one.payload_schema.encode()) > MAX_SCHEMAS:
        raise Conflict(f"the payload schemas of all types put over HTTP would have more than {MAX_SCHEMAS} bytes")


def _in_words(use: TypeUse) -> str:
    if use.served:
        return SERVED
    return IN_USE if use.in_use else f"schedules submit jobs of this type: {', '.join(use.schedules)}"
