"""What the API lets through by the published schema a handler can read as its type, and the other way round."""

import base64
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from re import Pattern
from typing import Any, Literal
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, create_model

from accepted import job
from accepted.handler import MARK, Handler
from accepted.payload_types import FORMATS, checkers
from accepted.services.job_types.payload_schema import read_schema

FEW = settings(max_examples=30, deadline=None)
"""There are many types; the first example of each builds its validators."""


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Checked:
    """A field of one type in a payload, as the API and as a handler see it."""

    def __init__(self, type_: Any) -> None:
        self.model: type[BaseModel] = create_model("Payload", field=(type_, ...))

        @job("checked")
        def checked(payload: Any, ctx: Any) -> None: ...

        checked.__annotations__["payload"] = self.model
        job("checked")(checked)
        self.handler: Handler = checked.__dict__[MARK]
        self._schema, self._validator = read_schema(self.handler.type.payload_schema, checkers(), of_client=False)

    @property
    def field(self) -> dict[str, Any]:
        found: dict[str, Any] = self._schema["properties"]["field"]
        return found

    def api_takes(self, value: object) -> bool:
        payload = {"field": value}
        return not self._validator.errors(payload, json.dumps(payload).encode())

    def handler_reads(self, value: object) -> bool:
        try:
            self.handler.payload.validate_json(json.dumps({"field": value}))
        except ValidationError:
            return False
        return True


TEXTS: dict[str, Any] = {
    "datetime": datetime,
    "aware": pydantic.AwareDatetime,
    "naive": pydantic.NaiveDatetime,
    "past moment": pydantic.PastDatetime,
    "future moment": pydantic.FutureDatetime,
    "date": date,
    "past date": pydantic.PastDate,
    "future date": pydantic.FutureDate,
    "time": time,
    "timedelta": timedelta,
    "uuid": UUID,
    "uuid4": pydantic.UUID4,
    "uuid7": pydantic.UUID7,
    "decimal": Decimal,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "ip": pydantic.IPvAnyAddress,
    "network": IPv4Network,
    "network6": IPv6Network,
    "interface": IPv4Interface,
    "any network": pydantic.IPvAnyNetwork,
    "url": pydantic.AnyUrl,
    "base64": pydantic.Base64Bytes,
    "base64url": pydantic.Base64UrlBytes,
    "json": pydantic.Json,
    "pattern": Pattern,
    "bytes": bytes,
    "str": str,
    "literal": Literal["a", "b"],
    "enum": Color,
    "fraction": Fraction,
    "list": list[time],
    "optional": datetime | None,
    "union": date | UUID,
    "dict": dict[date, timedelta],
    "tuple": tuple[time, UUID],
}
"""Types whose JSON is text, or holds text."""

NUMBERS: dict[str, Any] = {"int": int, "float": float, "bool": bool}

CHECKED = {name: Checked(type_) for name, type_ in (TEXTS | NUMBERS).items()}

moments = st.datetimes() | st.datetimes(timezones=st.timezones())
texts = st.one_of(
    st.text(max_size=20),
    moments.map(lambda one: one.isoformat()),
    moments.map(str),
    moments.map(lambda one: one.isoformat().replace("+00:00", "Z")),
    st.dates().map(str),
    st.times().map(str),
    st.times().map(lambda one: f"{one}Z"),
    st.times().map(lambda one: one.isoformat("minutes")),
    st.timedeltas().map(str),
    st.integers(-(10**12), 10**12).map(str),
    st.integers(0, 10**6).map(lambda n: f"PT{n}S"),
    st.from_regex(r"-?P([0-9]{1,3}[YMWD])?(T[0-9]{1,3}[HMS])?", fullmatch=True),
    st.uuids().map(str),
    st.uuids().map(lambda one: one.hex),
    st.decimals().map(str),
    st.fractions().map(str),
    st.ip_addresses().map(str),
    st.tuples(st.ip_addresses(v=4), st.integers(0, 40)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.sampled_from(
        ["http://example.com", "HTTPS://a.b/c?d#e", "ftp://x", "http://", "//x", "mailto:a@b.c", "a", "red"]
    ),
    st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode()),
    st.binary(max_size=9).map(lambda raw: base64.urlsafe_b64encode(raw).decode()),
    st.sampled_from(["{}", "[1]", "nul", "null", '"x"', "(", "[a-z]+", r"(?P<a>x)(?P=a)", r"\Z", "24:00:00", "10:00"]),
)


def shapes(name: str) -> Any:
    """JSON of the shape that the schema of this type asks for, with any texts in it."""
    return {
        "list": st.lists(texts, max_size=3),
        "dict": st.dictionaries(texts, texts, max_size=3),
        "tuple": st.tuples(texts, texts).map(list),
    }.get(name, texts)


@pytest.mark.parametrize("name", TEXTS)
def test_every_text(name: str) -> None:
    checked = CHECKED[name]

    @FEW
    @given(shapes(name))
    def both_ways(value: object) -> None:
        assert checked.api_takes(value) == checked.handler_reads(value)

    both_ways()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.parametrize("name", CHECKED)
def test_what_the_api_lets_through_the_handler_reads(name: str) -> None:
    checked = CHECKED[name]

    @FEW
    @given(json_values)
    def one_way(value: object) -> None:
        assert checked.handler_reads(value) or not checked.api_takes(value)

    one_way()


OWN = (
    "datetime",
    "date",
    "time",
    "timedelta",
    "uuid",
    "ipv4",
    "network6",
    "enum",
    "list",
    "optional",
    "union",
    "dict",
    "int",
)


@pytest.mark.parametrize("name", OWN)
def test_what_the_type_writes_the_api_lets_through(name: str) -> None:
    """A client in Python that dumps the handler's own model is understood."""
    checked = CHECKED[name]

    @FEW
    @given(st.builds(checked.model))
    def round_trip(payload: BaseModel) -> None:
        written = json.loads(payload.model_dump_json())["field"]
        assert checked.api_takes(written) == checked.handler_reads(written)

    round_trip()


def test_http_urls() -> None:
    checked = Checked(pydantic.HttpUrl)
    for url in ("http://example.com", "HTTPS://example.com/a", "ftp://example.com", "example.com", "", "http://"):
        assert checked.api_takes(url) == checked.handler_reads(url), url


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("time", "10:00:00", True),
        ("time", "10:00", True),
        ("timedelta", "01:02:03", True),
        ("timedelta", "PT1H", True),
        ("timedelta", 30, False),
        ("datetime", "2026-01-01T00:00:00", True),
        ("naive", "2026-01-01T00:00:00", True),
        ("naive", "2026-01-01T00:00:00Z", False),
        ("aware", "2026-01-01T00:00:00", False),
        ("aware", "2026-01-01T00:00:00+02:00", True),
        ("datetime", "2026-06-30T23:59:60Z", False),
        ("future date", "2001-01-01", False),
        ("decimal", "abc", False),
        ("json", "{", False),
    ],
)
def test_by_example(name: str, value: object, taken: bool) -> None:
    assert CHECKED[name].api_takes(value) == taken


def test_formats_are_the_usual_ones_where_they_say_enough() -> None:
    assert CHECKED["datetime"].field["format"] == "date-time"
    assert CHECKED["date"].field["format"] == "date"
    assert CHECKED["uuid"].field["format"] == "uuid"
    assert {CHECKED[name].field["format"] for name in ("aware", "naive")} == {"aware-date-time", "naive-date-time"}


def test_every_format_that_a_type_here_publishes_is_checked() -> None:
    published = {
        each["format"]
        for checked in CHECKED.values()
        for each in (checked.field, *checked.field.get("anyOf", ()), *checked.field.get("prefixItems", ()))
        if "format" in each
    }
    assert published - FORMATS.keys() == {"binary"}, "any text is bytes"
