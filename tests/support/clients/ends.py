"""Requests at the ends: for each parameter of each operation of an OpenAPI document, values at which times, numbers and
texts end, with the other parameters as a client would give them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

TIMES = [
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z",
    "2038-01-19T03:14:08Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-23:59",
    "9999-12-31T00:30:00Z", "2026-02-30T00:00:00Z", "2026-12-31T23:59:60Z",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "1", "-1", "2147483647", "2147483648", "-2147483649", "4294967296", "9007199254740993",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" + "0" * 400, "0.1", "1e-300", "5e-324",
    "1e308", "1e-3", "-1e308", "86400", "31622400", "31622400.000001",
]  # fmt: skip
IDS = [
    "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "ffffffff-ffff-7fff-bfff-ffffffffffff", "00000000-0000-7000-8000-000000000000",
    "01890000-0000-7000-8000-000000000000", "0" * 32, "{01890000-0000-7000-8000-000000000000}",
]  # fmt: skip
TEXTS = [
    "", " ", "a", "A", "null", "NaN", "é", "\u0130", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u202e", "\ufffe",
    "\U0010ffff", "\x00", "\x01", "\n", "\x7f", "'", '"', "\\", "%", "%s", "../..", "a" * 255, "a" * 65_536,
    "\u0130" * 3_000, "*/5 * * * *", "0 0 31 12 *", "* * 29 2 *", "http://a:99999/", "Pacific/Apia", "Factory",
]  # fmt: skip
JSON_VALUES: list[object] = [None, True, [], {}, [None] * 2_000, {"a": {"b": [1]}}, {str(n): n for n in range(2_000)}]
HEADERS = [
    b"", b" ", b"*", b'"', b'""', b"\xff", b"\xed\xa0\x80", b"a" * 8_000, b"9" * 400, b"-1", b"wait=0", b"wait=-1",
    b"wait=0" + b"0" * 400, b'W/"a", *, "b"', b"Bearer \xff", b"bytes=0-",
]  # fmt: skip
RAW = ["%00", "%FF", "%ED%A0%80", "%2F", "%", "%E2%80%AE", ".", "a" * 3_000]
"""Percent-encoded text that is no UTF-8, or none that a path or a query should have."""

ALWAYS_READ = {"authorization", "traceparent"}
"""Headers that a submission may have, although no operation lists them as parameters."""

PLAUSIBLE: Mapping[str, object] = {
    "type": "noop", "queue": "q", "name": "q", "cron": "* * * * *", "timezone": "UTC", "key": "k", "ref": "a",
    "callback_url": "http://example.com/", "url": "http://example.com/", "message": "m", "percent": 1, "jobs": None,
    "job": None, "ids": [], "dry_run": True, "wait": 0, "delay": 3600, "host": "example.com",
}  # fmt: skip
"""What a client gives by name; None: as the schema says."""

VALID_WAIT = 60.0


def _encoded(text: str) -> str:
    return quote(text, safe="")


TEXT_PARAMETERS = [*RAW, *(_encoded(text) for text in (*TIMES, *NUMBERS, *IDS, *TEXTS) if len(text) < 10_000)]
"""For paths and queries."""


class Sent(msgspec.Struct, frozen=True):
    """A request: the path with its query is percent-encoded already. `what` names the parameter and its value.

    `own`: the parameter is in the path or query, and the value is an end of its own type: time, number, id, or NUL.
    """

    method: str
    path: str
    what: str
    headers: list[tuple[bytes, bytes]] = []
    body: bytes | None = None
    own: bool = False

    def request(self, base_url: str) -> dict[str, Any]:
        """The arguments of `httpx.AsyncClient.stream`. Raises `httpx.InvalidURL`."""
        kind = [] if self.body is None else [(b"content-type", b"application/json")]
        url = httpx.URL(base_url.rstrip("/") + self.path)
        return {"method": self.method, "url": url, "headers": [*kind, *self.headers], "content": self.body}


class Ends:
    """`requests()` are all of them, for the ids that stand for `{job_id}` and its like."""

    def __init__(self, document: Mapping[str, Any], ids: Mapping[str, str]) -> None:
        self._document = document
        self._ids = ids

    def requests(self) -> Iterator[Sent]:
        """Those that only read come first, while nothing has changed."""
        operations = [(method, path) for path, item in self._document["paths"].items() for method in item]
        for method, path in sorted(operations, key=lambda one: one[0] not in ("get", "head")):
            yield from self._of_operation(method.upper(), path, self._document["paths"][path][method])

    def _of_operation(self, method: str, path: str, operation: Mapping[str, Any]) -> Iterator[Sent]:
        parameters = operation.get("parameters", [])
        usual = self._filled(path, {})
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        body = None if content is None else self._example(content["schema"])
        encoded = None if content is None else json.dumps(body).encode()
        for one in parameters:
            place, name = one["in"], one["name"]
            ends = set(map(_encoded, _ends_of(self._resolved(one.get("schema", {})))))
            for text in TEXT_PARAMETERS if place in ("path", "query") else ():
                target = self._filled(path, {name: text}) if place == "path" else f"{usual}?{quote(name)}={text}"
                if not (name == "wait" and _waits(text)):
                    yield Sent(
                        method, target, f"{place} {name}={text[:60]}", [], encoded, text in ends or text == RAW[0]
                    )
        named = {one["name"].lower() for one in parameters if one["in"] == "header"}
        for name in sorted(named | (ALWAYS_READ if method == "POST" else set())):
            for value in HEADERS:
                yield Sent(method, usual, f"header {name}={value[:60]!r}", [(name.encode(), value)], encoded)
        if content is not None:
            for what, changed in self._changed(body, content["schema"], ""):
                yield Sent(method, usual, f"body {what}", [], changed)

    def _filled(self, path: str, given: Mapping[str, str]) -> str:
        for name in {part[1:-1] for part in path.split("/") if part.startswith("{")}:
            path = path.replace(f"{{{name}}}", given.get(name, self._ids.get(name, str(PLAUSIBLE.get(name, "x")))))
        return path

    def _changed(self, body: Any, schema: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, bytes]]:
        """`body` with one value at an end, for each property of the schema, and of those in it."""
        whole = json.dumps(body)
        for steps, kind in self._places(schema, ()):
            for literal in _literals(kind):
                if steps[-1] == "wait" and _waits(literal):
                    continue
                marked = json.loads(whole)
                if _put(marked, steps, "\x02here\x02"):
                    text = json.dumps(marked).replace(json.dumps("\x02here\x02"), literal)
                    yield f"/{'/'.join(map(str, steps))}={literal[:60]}", text.encode()

    def _places(self, schema: Mapping[str, Any], above: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        schema = self._resolved(schema)
        if len(above) > 3:
            return
        for name, inner in schema.get("properties", {}).items():
            yield (*above, name), self._resolved(inner)
            yield from self._places(inner, (*above, name))
        if "items" in schema:
            yield (*above, 0), self._resolved(schema["items"])
            yield from self._places(schema["items"], (*above, 0))

    def _example(self, schema: Mapping[str, Any], name: str = "") -> Any:
        if PLAUSIBLE.get(name) is not None:
            return PLAUSIBLE[name]
        schema = self._resolved(schema)
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                properties = schema.get("properties", {})
                return {one: self._example(properties.get(one, {}), one) for one in schema.get("required", [])}
            case "array":
                return [self._example(schema.get("items", {}))]
            case "string":
                return "a"
            case "boolean":
                return True
            case "integer" | "number":
                return schema.get("minimum", 1)
        return {}

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without references; of alternatives the first that is not null."""
        while "$ref" in schema or "anyOf" in schema or "oneOf" in schema:
            if "$ref" in schema:
                schema = self._document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
            else:
                members = schema.get("anyOf", schema.get("oneOf", []))
                schema = next(one for one in members if one.get("type") != "null")
        return schema


def _ends_of(schema: Mapping[str, Any]) -> list[str]:
    """The ends of the parameter's own type."""
    by_format = {"date-time": TIMES, "uuid": IDS}.get(schema.get("format", ""), [])
    return NUMBERS if schema.get("type") in ("integer", "number") else by_format


def _literals(schema: Mapping[str, Any]) -> Iterator[str]:
    """JSON texts: every end of the property's own type, and a few of the others'."""
    kind = schema.get("type")
    yield from (NUMBERS if kind in ("integer", "number") else NUMBERS[:1] + NUMBERS[-2:])
    yield from (json.dumps(value) for value in JSON_VALUES)
    texts = TIMES if schema.get("format") == "date-time" else IDS if schema.get("format") == "uuid" else TEXTS
    yield from (json.dumps(text, ensure_ascii=False) for text in (texts if kind == "string" else TEXTS[:3]))
    yield from ('"\\ud800"', "NaN", "[" * 70 + "]" * 70)


def _put(body: Any, steps: tuple[Any, ...], value: object) -> bool:
    """Put it there, and say whether there is such a place; objects and lists on the way are made."""
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        if isinstance(step, int):
            if not isinstance(body, list):
                return False
            body.extend([{}] * (step + 1 - len(body)))
        elif not isinstance(body, dict):
            return False
        if following is None:
            body[step] = value
        elif isinstance(step, str):
            body = body.setdefault(step, [] if isinstance(following, int) else {})
        else:
            body = body[step]
    return True


def _waits(text: str) -> bool:
    """Whether the request would be answered only after a while."""
    try:
        return 0 < float(text) <= VALID_WAIT
    except ValueError:
        return False
