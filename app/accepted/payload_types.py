"""The fields of payloads: how their types appear in the published JSON Schema, and what its formats mean.

The API checks a payload by the schema, a handler reads it as its type, and both must agree. So each format in the
schema of a Python type is checked by Pydantic, as that type. Where Pydantic's own schema says less than its type (a
date and time without an offset, a date in the past, a decimal number as text), `PayloadSchema` names a format of ours.
Times are text: a number is refused for them, though Pydantic could read it.
"""

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache, partial
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from re import Pattern
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
from pydantic import BeforeValidator, Field, TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from accepted.domain.network.urls import MAX_URL_CHARS

URL_FORMAT = "accepted-url"
"""The `format` of a URL that a worker calls; `accepted.domain.network.urls.check_url` has its rules."""

FORMATS: dict[str, Any] = {
    "date-time": datetime, "aware-date-time": pydantic.AwareDatetime, "naive-date-time": pydantic.NaiveDatetime,
    "past-date-time": pydantic.PastDatetime, "future-date-time": pydantic.FutureDatetime,
    "date": date, "past-date": pydantic.PastDate, "future-date": pydantic.FutureDate,
    "time": time, "duration": timedelta, "uuid": UUID,
    **{f"uuid{n}": getattr(pydantic, f"UUID{n}") for n in (1, 3, 4, 5, 6, 7, 8)},
    "ipv4": IPv4Address, "ipv6": IPv6Address, "ipv4network": IPv4Network, "ipv6network": IPv6Network,
    "ipv4interface": IPv4Interface, "ipv6interface": IPv6Interface, "ipvanyaddress": pydantic.IPvAnyAddress,
    "ipvanynetwork": pydantic.IPvAnyNetwork, "ipvanyinterface": pydantic.IPvAnyInterface,
    "uri": pydantic.AnyUrl, "base64": pydantic.Base64Bytes, "base64url": pydantic.Base64UrlBytes,
    "json-string": pydantic.Json, "decimal": Decimal, "fraction": Fraction, "regex": Pattern,
}  # fmt: skip
"""The type as which Pydantic reads the text of each format."""

_BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _decoded(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": _BASE64}),
]
"""Bytes, as base64 with padding and without line breaks (RFC 4648, section 4)."""

Url = Annotated[str, Field(max_length=MAX_URL_CHARS, json_schema_extra={"format": URL_FORMAT})]
"""A URL that a worker calls."""


class PayloadSchema(GenerateJsonSchema):
    """The generator of published schemas."""

    def datetime_schema(self, schema: Any) -> JsonSchemaValue:
        return {"type": "string", "format": _narrowed("date-time", schema)}

    def date_schema(self, schema: Any) -> JsonSchemaValue:
        return {"type": "string", "format": _narrowed("date", schema)}

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().decimal_schema(schema)
        for member in found.get("anyOf", ()):
            if member.get("type") == "string":
                member["format"] = "decimal"
        return found

    def json_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().json_schema(schema), "format": "json-string"}

    def url_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().url_schema(schema)
        if schemes := schema.get("allowed_schemes"):
            found["pattern"] = f"^(?:{'|'.join(map(_in_any_case, schemes))}):"
        return found


def checkers() -> dict[str, Callable[[str], bool]]:
    """For each format, whether a text is of it."""
    return {name: partial(_is_of, name) for name in FORMATS}


def _is_of(name: str, text: str) -> bool:
    try:
        _reader(name).validate_json(msgspec.json.encode(text))
    except Exception:  # Pydantic's own error, or one of the type's
        return False
    return True


@cache
def _reader(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(FORMATS[name])


def _narrowed(name: str, schema: Any) -> str:
    which = schema.get("tz_constraint") or schema.get("now_op")
    return f"{which}-{name}" if which in ("aware", "naive", "past", "future") else name


def _in_any_case(scheme: str) -> str:
    return "".join(f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in scheme)
