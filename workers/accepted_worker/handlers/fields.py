"""Payload fields that several built-in types share. The model takes every value that the JSON Schema allows."""

import base64
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from accepted.domain.network.urls import MAX_URL_CHARS

_BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _decoded(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": _BASE64}),
]
"""Bytes, as base64 with padding and without line breaks (RFC 4648, section 4)."""

Url = Annotated[str, Field(max_length=MAX_URL_CHARS, json_schema_extra={"format": "accepted-url"})]
"""A URL that a worker calls; `accepted.domain.network.urls.check_url` has its rules."""
