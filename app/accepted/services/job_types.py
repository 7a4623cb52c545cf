"""Job types: the body of PUT /job-types/{name}, and the cached types that submissions are checked against."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import json_text
from accepted.domain.failures import OnNotFound
from accepted.domain.job import (
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    MAX_DESCRIPTION,
    QUEUE_PATTERN,
    RESERVED_QUEUE,
    TYPE_PATTERN,
    WEBHOOK_QUEUE,
    JobType,
)
from accepted.domain.json_text import escape_pointer
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import UrlRefused, check_url
from accepted.domain.retry import Retry
from accepted.errors import ConfigurationError, FieldError, Hints, InvalidRequest, did_you_mean
from accepted.payload_types import URL_FORMAT, checkers
from accepted.services.jobs.requests import MAX_TIMEOUT, Number, RetryRequest
from accepted.services.jobs.validation import checked, shortened
from accepted.services.payload_schema import MAX_ERRORS, PayloadValidator, SchemaFlaw, check_schema, read_schema
from accepted.services.settings_watch import SettingsCopy
from accepted.storage import job_types
from accepted.storage.db.engine import reading

MAX_AGE = 0.4
"""Seconds for which the types are used before they are read again."""

MAX_AGE_WATCHED = 5.0
"""The same in a process that hears of changes."""

RETRY_AFTER = 0.5
"""Seconds before an unknown type is looked up again: a worker may have registered it a moment ago."""

MAX_DETAIL = 500
"""Characters of a validator's message, which can list all values of an `enum`."""

NO_URL = "is not a URL that a worker may call"

IN_OTHER_WORDS = {
    "propertyNames": "a name in it is not allowed here",
    "not": "holds what excludes each other, or is not allowed",
}
"""By keyword, in place of validator messages that would quote the payload's names or a piece of the schema."""


log = structlog.get_logger(__name__)


class JobTypeRequest(BaseModel):
    """A type whose jobs are leased over HTTP. A PUT replaces the whole type: omitted fields get their defaults."""

    model_config = ConfigDict(extra="forbid", title="JobTypeRequest")

    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION)] = ""
    queue: Annotated[StrictStr, Field(pattern=QUEUE_PATTERN)] = DEFAULT_QUEUE
    retry: RetryRequest | None = None
    timeout: Annotated[Number, Field(gt=0, le=MAX_TIMEOUT, description="seconds")] = DEFAULT_TIMEOUT
    not_found: OnNotFound = OnNotFound.FAIL
    payload_schema: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of the payload")


def read(name: str, parsed: Any) -> JobType:
    """The external type that the body of a PUT describes. Raises `InvalidRequest`."""
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
    )


@dataclass(frozen=True)
class CompiledJobType:
    """A registered type, with its payload schema compiled. `fields` are the properties that the schema names.

    `flaw` says why no job of the type can be accepted: its row, or its schema, cannot be used.
    """

    type: JobType
    validator: PayloadValidator | None
    fields: tuple[str, ...]
    flaw: str | None = None

    def check(self, payload: object, encoded: bytes) -> None:
        """Raise `InvalidRequest`, with a pointer for each error, for a payload that does not match the schema.

        `encoded` is the payload without whitespace. A payload beyond the budget of the schema is refused unread.
        """
        if self.flaw is not None or self.validator is None:
            raise InvalidRequest([FieldError("/type", f"no job of this type can be accepted: {self.flaw}")])
        if errors := self.validator.errors(payload, encoded):
            hints = Hints()
            found = chain.from_iterable(_field_errors(error, self.fields, hints) for error in errors)
            raise InvalidRequest(list(islice(found, MAX_ERRORS)))


class JobTypeCache:
    """Types by name, at most `max_age` seconds old."""

    def __init__(self, engine: AsyncEngine, allow: EgressAllow, max_age: float = MAX_AGE) -> None:
        self._engine = engine
        self._max_age = max_age
        self._copy = SettingsCopy(self._read)
        self._formats = {URL_FORMAT: _url_format(allow)}
        self._python_formats = checkers() | self._formats
        self._types: dict[str, CompiledJobType] = {}
        self._read_at = -max_age

    async def get(self, name: str) -> CompiledJobType:
        """The type called `name`. Raises `InvalidRequest`, with the nearest name, for one that nobody may submit."""
        known = await self._lookup(name)
        if known is None or known.type.internal:
            hint = did_you_mean(name, (n for n, k in self._types.items() if not k.type.internal))
            raise InvalidRequest([FieldError("/type", f"no worker has registered this type{hint}")])
        return known

    async def all(self) -> list[CompiledJobType]:
        """Every registered type but internal ones, by name, read from the ledger now."""
        await self._refresh()
        return [known for known in self._types.values() if not known.type.internal]

    async def knows(self, name: str) -> bool:
        """Whether such a type is registered and may be submitted. An unknown type is looked up again."""
        if name not in self._types:
            await self._refresh()
        known = self._types.get(name)
        return known is not None and not known.type.internal

    def forget(self) -> None:
        """Read the types again before they are next used: one has changed."""
        self._copy.forget()

    async def _lookup(self, name: str) -> CompiledJobType | None:
        age = time.monotonic() - self._read_at
        if age > self._max_age or (name not in self._types and age > RETRY_AFTER):
            self._copy.forget()
        await self._copy.refresh()
        return self._types.get(name)

    async def _refresh(self) -> None:
        self._copy.forget()
        await self._copy.refresh()

    async def _read(self) -> None:
        async with reading(self._engine) as conn:
            found = await job_types.all_types(conn)
        self._read_at = time.monotonic()
        self._types = {one.name: self._known(one) for one in found}

    def _known(self, one: JobType) -> CompiledJobType:
        """A type that cannot be used is known with its flaw, and stops no other. It is logged when it is new."""
        before = self._types.get(one.name)
        if before is not None and before.type == one:
            return before
        try:
            formats = self._formats if one.external else self._python_formats
            schema, validator = read_schema(one.payload_schema, formats, of_client=one.external)
        except SchemaFlaw as flaw:
            log.warning("job_type_unusable", type=one.name, reason=str(flaw))
            return CompiledJobType(one, None, (), str(flaw))
        if one.flaw is not None:
            log.warning("job_type_unusable", type=one.name, reason=one.flaw)
        return CompiledJobType(one, validator, tuple(schema.get("properties", ())), one.flaw)


def check_handled(types: Iterable[JobType]) -> None:
    """Raise `ConfigurationError` for a type of this worker with a payload schema that no API could use."""
    for one in types:
        try:
            read_schema(one.payload_schema, {URL_FORMAT: lambda _: True}, of_client=False)
        except SchemaFlaw as flaw:
            raise ConfigurationError(f"the type {one.name!r} of ACCEPTED_HANDLERS cannot be served: {flaw}") from None


def _url_format(allow: EgressAllow) -> Callable[[str], bool]:
    def acceptable(url: str) -> bool:
        try:
            check_url(url, allow)
        except UrlRefused:
            return False
        return True

    return acceptable


def _field_errors(error: Any, fields: Sequence[str], hints: Hints) -> Iterator[FieldError]:
    """The error without the value that caused it; `fields` are the names that the payload may have."""
    where = "/payload" + "".join(f"/{escape_pointer(str(step))}" for step in error.instance_path)
    if error.kind.name == "additionalProperties":
        known = fields if not error.instance_path else ()
        for name in error.kind.as_dict()["unexpected"]:
            yield FieldError(shortened(f"{where}/{escape_pointer(name)}"), f"unknown field{hints.about(name, known)}")
    elif error.kind.name == "required":
        yield FieldError(shortened(f"{where}/{escape_pointer(error.kind.as_dict()['property'])}"), "is required")
    elif error.kind.name == "format" and URL_FORMAT in error.message:
        yield FieldError(shortened(where), NO_URL)
    else:
        yield FieldError(shortened(where), IN_OTHER_WORDS.get(error.kind.name, error.message)[:MAX_DETAIL])
