"""The job type `http.request`: calls a URL; the status of the answer decides how the attempt ends.

At submission the API checks the JSON Schema of `HttpRequest`, whose format `accepted-url` stands for
`accepted.domain.network.urls.check_url`. The model takes every value that the schema allows, so no job fails here on
its shape.
"""

import codecs
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from accepted import Context, job
from accepted.context import HttpAnswer, HttpClient
from accepted.payload_types import Url
from accepted_worker.attempt import failures
from accepted_worker.attempt.values import size_of, start_of
from accepted_worker.outbound.egress import FIELD_VALUE, RESERVED_HEADERS, RESERVED_PREFIXES, TOKEN

MAX_HEADERS = 50
MAX_HEADER_NAME = 256
MAX_HEADER_VALUE = 8 * 1024
MAX_TIMEOUT = 300.0
MAX_STATUSES = 50

# The part of an answer that is stored as the job's result, for the whole retention.
MAX_BODY_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 1024  # as JSON


def _any_case(name: str) -> str:
    # ECMA 262, which JSON Schema patterns are written in, has no flag for this inside a pattern.
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in name)


# webhook-*: a job must not be able to forge the signature headers of our own deliveries (contract section 6).
_REFUSED_NAMES = "|".join(
    [f"{_any_case(name)}$" for name in RESERVED_HEADERS]
    + [_any_case(prefix) for prefix in (*RESERVED_PREFIXES, "webhook-")]
)
_HEADER_NAME = rf"^(?!{_REFUSED_NAMES}){TOKEN}$"
_HEADER_VALUE = rf"^{FIELD_VALUE}$"


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        # `fullmatch` beside the anchors: in Python, not in ECMA 262, `$` also matches before a final newline.
        if len(name) > MAX_HEADER_NAME or not re.fullmatch(_HEADER_NAME, name):
            raise ValueError("a header name is not allowed")
        if len(value) > MAX_HEADER_VALUE or not re.fullmatch(_HEADER_VALUE, value):
            raise ValueError("a header value is not allowed")
    return headers


Headers = Annotated[
    dict[str, str],
    Field(max_length=MAX_HEADERS),
    AfterValidator(_checked_headers),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_HEADERS,
            "propertyNames": {"maxLength": MAX_HEADER_NAME, "pattern": _HEADER_NAME},
            "additionalProperties": {
                "type": "string",
                "maxLength": MAX_HEADER_VALUE,
                "pattern": _HEADER_VALUE,
            },
        }
    ),
]
StatusCode = Annotated[int, Field(ge=100, le=599)]


class HttpRequest(BaseModel):
    """Call a URL. 2xx succeeds; 5xx, 408, 425 and 429 are tried again; anything else fails at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"not": {"required": ["json", "body"]}})

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    url: Url
    headers: Headers = Field(default={}, description="Sent as they are, beside those that frame the message.")
    json_body: Any = Field(
        default=None, alias="json", description="Sent as application/json; not together with `body`."
    )
    body: str = Field(default="", description="Sent as UTF-8 text; not together with `json`.")
    timeout: float = Field(default=30.0, gt=0, le=MAX_TIMEOUT, strict=True, description="Seconds for the whole call.")
    expect_status: StatusCode | Annotated[list[StatusCode], Field(min_length=1, max_length=MAX_STATUSES)] | None = (
        Field(default=None, description="The statuses that count as success, instead of 2xx.")
    )

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if {"json_body", "body"} <= self.model_fields_set:
            raise ValueError("json and body exclude each other")
        return self

    def content(self) -> tuple[bytes, str | None]:
        """The bytes to send, and the media type that they have unless a header says otherwise."""
        if "json_body" in self.model_fields_set:
            text = json.dumps(self.json_body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode(), "application/json"
        return self.body.encode(), "text/plain; charset=utf-8" if self.body else None


@job("http.request", description="Call a URL; the status of the answer decides whether the job has succeeded.")
async def http_request(payload: HttpRequest, ctx: Context) -> dict[str, Any]:
    """Call a URL. The result is that of `perform`."""
    return await perform(payload, ctx.egress, ctx.max_result_bytes)


async def perform(payload: HttpRequest, egress: HttpClient, limit: int) -> dict[str, Any]:
    """Call, and judge the answer. Result: `status_code`, `headers` (lower-case names), `body` (text), `truncated`.

    The result has at most `limit` bytes as JSON: a call that was made must not fail because of a long answer. A success
    whose body breaks off fails, because half an answer would pass for the whole.
    """
    content, media_type = payload.content()
    headers = dict(payload.headers)
    if media_type and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = media_type
    answer = await egress.send(
        payload.method, payload.url, headers, content, timeout=payload.timeout, max_bytes=MAX_BODY_BYTES
    )
    judge(answer, payload.expect_status)
    return _result(answer, limit)


def judge(answer: HttpAnswer, expect_status: int | Sequence[int] | None) -> None:
    """Return if the answer is a whole success; else raise the failure of contract section 5."""
    status = answer.status_code
    expected = [expect_status] if isinstance(expect_status, int) else expect_status
    if status in expected if expected else 200 <= status <= 299:
        if answer.broken_off is not None:
            raise answer.broken_off
        return
    retry_after = next((value for name, value in answer.headers if name.lower() == "retry-after"), None)
    raise failures.of_status(status, retry_after)


def _result(answer: HttpAnswer, limit: int) -> dict[str, Any]:
    headers: dict[str, str] = {}
    room = min(MAX_HEADER_BYTES, limit // 2)
    for name, value in answer.headers:
        room -= size_of(name) + size_of(value) + len(":,")
        if room < 0:
            break
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    # With `final=False` the decoder leaves out a character that the cap has cut in two.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    # PostgreSQL's jsonb cannot hold U+0000.
    body = decoder.decode(answer.body, final=not answer.truncated).replace("\0", "\ufffd")
    result = {"status_code": answer.status_code, "headers": headers, "body": "", "truncated": False}
    kept = start_of(body, limit - size_of(result) + len('""'))
    return result | {"body": kept, "truncated": answer.truncated or room < 0 or kept != body}
