"""Reading request bodies: the headers are checked first, then the bytes are counted as they stream in.

Contract section 4: bodies are UTF-8 and not compressed (else 415), and within their limit (else 413), whatever
Content-Length says. Nothing is decompressed, so there is no decompression bomb.
"""

from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator
from starlette.requests import Request
from starlette.types import Message

from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.json_pieces import LARGE, Apart
from accepted.domain.json_pieces import read as read_pieces
from accepted.domain.json_text import ParsedJSON
from accepted.errors import MalformedRequest, TooLarge, UnsupportedMedia

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
MORE_TIME = "accepted.more_time"
"""The key in a request's ASGI scope of a function that restarts its receive deadline (`DeadlineProtocol`)."""

_UTF8 = {b"charset=utf-8", b'charset="utf-8"', b""}


def _never_null(schema: dict[str, Any]) -> None:
    """Document fields with the default None as optional, not as nullable."""
    for field in schema["properties"].values():
        if field.get("default", field) is None:
            del field["default"]
            members = [one for one in field.pop("anyOf") if one != {"type": "null"}]
            field.update(members[0] if len(members) == 1 else {"anyOf": members})


class NoNulls(BaseModel):
    """A body or query with known fields only, none of them null.

    A null filter would select everything, while the client probably meant to narrow the selection.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_never_null)

    @field_validator("*", mode="before")
    @classmethod
    def _is_given(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null: leave it out")
        return value


async def read_json(request: Request, max_bytes: int, apart: Apart | None = None) -> ParsedJSON:
    """The JSON value in the body. Raises UnsupportedMedia, TooLarge, MalformedRequest or InvalidRequest.

    A large body is read in time slices; then the items of `apart` are `Unread`.
    """
    check_headers(request, JSON, max_bytes)
    message = await request.receive()
    raw = _piece(message)
    if message.get("more_body", False):
        raw = b"".join([raw, *[piece async for piece in _pieces(request, max_bytes, len(raw))]])
    elif len(raw) > max_bytes:
        raise _too_large(max_bytes)
    if len(raw) <= LARGE:
        return json_text.parse(raw)
    async with state_of(request).slices as slices:
        return await slices.through(read_pieces(raw, apart))


async def read_optional_json(request: Request, max_bytes: int) -> ParsedJSON:
    """As `read_json`, with an empty object if there is no body."""
    headers = request.headers
    if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
        return {}
    return await read_json(request, max_bytes)


def body_docs(model: type[BaseModel], *, required: bool = True, by_lines: str = "") -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body itself; `by_lines` describes an NDJSON body."""
    schema = model.model_json_schema()
    content = {JSON.decode(): {"schema": _inlined(schema, schema.pop("$defs", {}))}}
    if by_lines:
        content[NDJSON.decode()] = {"schema": {"type": "string", "description": by_lines}}
    return {"requestBody": {"required": required, "content": content}}


async def read_lines(request: Request, max_bytes: int) -> AsyncIterator[list[bytes]]:
    """The lines of an NDJSON body in groups, as they arrive; each line may have up to `max_bytes`.

    Each complete line restarts the receive deadline. Raises as `read_json`.
    """
    check_headers(request, NDJSON, None)
    more_time = request.scope.get(MORE_TIME, _nothing)
    rest, seen, more = b"", 0, True
    while more:
        message = await request.receive()
        *lines, rest = (rest + _piece(message)).split(b"\n")
        if max(map(len, lines), default=0) > max_bytes or len(rest) > max_bytes:
            first = next((n for n, line in enumerate(lines) if len(line) > max_bytes), len(lines))
            raise TooLarge(f"line {seen + first + 1} is larger than {max_bytes} bytes")
        seen += len(lines)
        if lines:
            more_time()
            yield lines
        more = message.get("more_body", False)
    if rest:
        yield [rest]


def is_ndjson(request: Request) -> bool:
    """Whether Content-Type says NDJSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == NDJSON.decode()


def check_headers(request: Request, media_type: bytes, max_bytes: int | None) -> None:
    """Refuse a wrong type, encoding or length before the body is read. Raises UnsupportedMedia or TooLarge."""
    has_type = False
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            if value != media_type:
                _check_media_type(value, media_type)
            has_type = True
        elif name == b"content-encoding":
            if value.strip().lower() not in (b"identity", b""):
                raise UnsupportedMedia("a body must not be compressed: send it without Content-Encoding")
        elif name == b"content-length" and max_bytes is not None:
            _check_length(value, max_bytes)
    if not has_type:
        raise UnsupportedMedia(f"Content-Type is missing: send {media_type.decode()}")


def _nothing() -> None:
    """Stands in for `MORE_TIME` under a server without `DeadlineProtocol`."""


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with each `$ref` into `definitions` replaced by its definition."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _check_media_type(value: bytes, expected: bytes) -> None:
    essence, *parameters = value.lower().split(b";")
    named = {parameter.strip() for parameter in parameters}
    if essence.strip() != expected or not named <= _UTF8:
        raise UnsupportedMedia(f"Content-Type must be {expected.decode()}, in UTF-8")


def _check_length(value: bytes, max_bytes: int) -> None:
    if not value.isdigit():
        raise MalformedRequest("Content-Length is not a number")
    digits = value.lstrip(b"0")
    if len(digits) > len(str(max_bytes)) or int(digits or b"0") > max_bytes:
        raise _too_large(max_bytes)


async def _pieces(request: Request, max_bytes: int, received: int) -> AsyncIterator[bytes]:
    """The rest of the body, after `received` bytes of it."""
    if received > max_bytes:
        raise _too_large(max_bytes)
    more = True
    while more:
        message = await request.receive()
        piece = _piece(message)
        received += len(piece)
        if received > max_bytes:
            raise _too_large(max_bytes)
        yield piece
        more = message.get("more_body", False)


def _piece(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise MalformedRequest("the connection ended before the body")
    return bytes(message.get("body", b""))


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes} bytes")
