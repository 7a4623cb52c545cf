"""A job type with its compiled payload schema, and what a client hears about a payload that does not match."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import structlog

from accepted.domain.job import JobType
from accepted.domain.json_text import escape_pointer
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import UrlRefused, check_url
from accepted.errors import FieldError, Hints, InvalidRequest
from accepted.payload_types import URL_FORMAT
from accepted.services.job_types.payload_schema import MAX_ERRORS, Formats, PayloadValidator, SchemaFlaw, read_schema
from accepted.services.jobs.validation import shortened

MAX_DETAIL = 500
"""Characters of a validator's message, which can list all values of an `enum`."""

NO_URL = "is not a URL that a worker may call"

IN_OTHER_WORDS = {
    "propertyNames": "a name in it is not allowed here",
    "not": "holds what excludes each other, or is not allowed",
}
"""By keyword, in place of validator messages that would quote the payload's names or a piece of the schema."""

log = structlog.get_logger(__name__)


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


def compile_type(one: JobType, formats: Formats) -> CompiledJobType:
    """The type with its validator. One that cannot be used has a flaw, which is logged."""
    try:
        schema, validator = read_schema(one.payload_schema, formats, of_client=one.external)
    except SchemaFlaw as flaw:
        log.warning("job_type_unusable", type=one.name, reason=str(flaw))
        return CompiledJobType(one, None, (), str(flaw))
    if one.flaw is not None:
        log.warning("job_type_unusable", type=one.name, reason=one.flaw)
    return CompiledJobType(one, validator, tuple(schema.get("properties", ())), one.flaw)


def url_format(allow: EgressAllow) -> Callable[[str], bool]:
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
