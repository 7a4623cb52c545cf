"""The payload of `http.request`: the JSON Schema alone refuses every bad case of fault notes 4.4 and 4.5.

The model is held to the same cases, so that the API and the worker cannot disagree; and an answer's status is
held to the table of contract section 5.
"""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from accepted.context import HttpAnswer
from accepted.domain.failures import AuthError, HandlerError, InvalidJob, NotFound, RateLimited, TransientError
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import UrlRefused, check_url
from accepted_worker.handlers.http_request import HttpRequest, judge
from accepted_worker.outbound.egress import RESERVED_HEADERS
from tests.support.bad_urls import FORBIDDEN, SCHEMES, SHAPES, SPELLINGS

URL = "https://a.example/hook"


def _accepted_url(value: str) -> bool:
    try:
        check_url(value, EgressAllow())
    except UrlRefused:
        return False
    return True


SCHEMA = jsonschema_rs.validator_for(
    HttpRequest.model_json_schema(), validate_formats=True, formats={"accepted-url": _accepted_url}
)

GOOD: list[dict[str, Any]] = [
    {"url": URL},
    {"url": URL, "method": "DELETE", "timeout": 300, "expect_status": 404},
    {"url": URL, "timeout": 0.001, "expect_status": [200, 201, 599]},
    {"url": URL, "json": None},
    {"url": URL, "json": [1, {"a": "é"}], "headers": {"content-type": "application/vnd.api+json"}},
    {"url": URL, "body": "text", "headers": {}},
    {"url": URL, "headers": {"X-Empty": "", "X-Tab": "a\tb", "X!#$%&'*+-.^_`|~9": "~!"}},
    {"url": URL, "headers": {"X-Long": "v" * 8192, "n" * 256: "v"}},
    {"url": URL, "headers": {f"X-{n}": "v" for n in range(50)}},
    {
        "url": URL,
        "headers": {"Hostname": "v", "Tea": "v", "Upgrade-Insecure-Requests": "1", "X-Proxy-A": "v"},
    },
]
BAD_NAMES = [
    *("", " ", "X A", "X:A", "X\r\nY", "X\n", "X\0", "Xé", "(X)", "X/Y", '"X"', "X,Y", " X", "X ", "n" * 257),
    *RESERVED_HEADERS,
    *(name.title() for name in RESERVED_HEADERS),
    *("HOST", "hOsT", "Proxy-Authorization", "proxy-connection", "Proxy-", "webhook-id", "Webhook-Signature"),
    "WEBHOOK-TIMESTAMP",
]
BAD_VALUES = [
    *("a\r\nb", "a\n", "a\r", "a\0b", " a", "a ", "\ta", "a\t", " ", "é", "a\x7f"),
    *("v" * 8193, "v" * 100_000),
]
BAD_METHODS = ["CONNECT", "TRACE", "get", "Get", "G ET", "", "GET\n", "POST\r\nX: y", "PURGE", None, 1]
BAD: list[Any] = [
    {},
    [],
    None,
    {"url": None},
    {"url": 1},
    {"url": URL, "extra": 1},
    {"url": URL, "json_body": 1},
    {"url": URL, "json": 1, "body": "x"},
    {"url": URL, "json": None, "body": ""},
    {"url": URL, "body": {}},
    {"url": URL, "headers": {f"X-{n}": "v" for n in range(51)}},
    {"url": URL, "headers": {f"X-{n}": "v" for n in range(500)}},
    {"url": URL, "headers": [["a", "b"]]},
    *({"url": URL, "headers": {"X": value}} for value in (None, 1, ["a"], True)),
    *({"url": URL, "timeout": value} for value in (0, -1, 300.1, 10**9, "30", True, None)),
    *({"url": URL, "expect_status": value} for value in (99, 600, "ok", [], [200, 99], True, 200.5, [200] * 51)),
    *({"url": URL, "headers": {name: "v"}} for name in BAD_NAMES),
    *({"url": URL, "headers": {"X": value}} for value in BAD_VALUES),
    *({"url": URL, "method": method} for method in BAD_METHODS),
]


@pytest.mark.parametrize("payload", GOOD, ids=str)
def test_good_payloads_pass_schema_and_model(payload: dict[str, Any]) -> None:
    SCHEMA.validate(payload)
    HttpRequest.model_validate(payload)


@pytest.mark.parametrize("payload", BAD, ids=lambda payload: ascii(payload)[:60])
def test_bad_payloads_are_refused_by_the_schema_and_by_the_model(payload: Any) -> None:
    assert not SCHEMA.is_valid(payload)
    with pytest.raises(ValidationError):
        HttpRequest.model_validate(payload)


BAD_URLS = [*SCHEMES, *SHAPES, *(f"http://{host}/" for host in SPELLINGS + FORBIDDEN)]


# A lone surrogate is no JSON text and cannot reach the schema.
@pytest.mark.parametrize("url", [url for url in BAD_URLS if "\ud800" not in url])
def test_bad_urls_are_refused_by_the_schema(url: str) -> None:
    assert not SCHEMA.is_valid({"url": url})


@given(st.text(max_size=30), st.text(max_size=30))
def test_schema_and_model_agree_on_every_header(name: str, value: str) -> None:
    payload = {"url": URL, "headers": {name: value}}
    try:
        HttpRequest.model_validate(payload)
    except ValidationError:
        assert not SCHEMA.is_valid(payload)
    else:
        assert SCHEMA.is_valid(payload)


def test_integers_written_as_decimals_pass_both() -> None:
    payload = {"url": URL, "expect_status": [200.0], "timeout": 30}
    SCHEMA.validate(payload)
    assert HttpRequest.model_validate(payload).expect_status == [200]


@pytest.mark.parametrize(
    ("payload", "content", "media_type"),
    [
        ({}, b"", None),
        ({"body": ""}, b"", None),
        ({"body": "é"}, "é".encode(), "text/plain; charset=utf-8"),
        ({"json": None}, b"null", "application/json"),
        ({"json": {"a": ["é", 1.5]}}, '{"a":["é",1.5]}'.encode(), "application/json"),
    ],
)
def test_content(payload: dict[str, Any], content: bytes, media_type: str | None) -> None:
    assert HttpRequest.model_validate({"url": URL, **payload}).content() == (content, media_type)


def answer(status: int, *headers: tuple[str, str]) -> HttpAnswer:
    return HttpAnswer(status, list(headers), b"", False)


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        *((status, None) for status in (200, 201, 204, 299)),
        *((status, InvalidJob) for status in (300, 301, 302, 304, 307, 308, 399, 400, 405, 409, 410, 422, 451, 499)),
        *((status, AuthError) for status in (401, 403, 407)),
        (404, NotFound),
        (429, RateLimited),
        *((status, TransientError) for status in (100, 101, 103, 408, 425, 500, 502, 503, 504, 599, 600, 999)),
    ],
)
def test_the_status_decides(status: int, failure: type[HandlerError] | None) -> None:
    if failure is None:
        judge(answer(status), None)
        return
    with pytest.raises(failure) as caught:
        judge(answer(status), None)
    assert type(caught.value) is failure


@pytest.mark.parametrize(
    ("status", "value", "retry_after"),
    [(429, "7", 7.0), (503, "9", 9.0), (503, "0", 0.0), (429, "soon", None)],
)
def test_retry_after_is_obeyed(status: int, value: str, retry_after: float | None) -> None:
    with pytest.raises(RateLimited) as caught:
        judge(answer(status, ("rEtRy-After", value)), None)
    assert caught.value.retry_after == retry_after


@pytest.mark.parametrize(("status", "value"), [(503, "-1"), (503, "soon"), (500, "7")])
def test_without_a_readable_retry_after_a_5xx_is_transient(status: int, value: str) -> None:
    with pytest.raises(TransientError):
        judge(answer(status, ("Retry-After", value)), None)


@pytest.mark.parametrize(("expected", "status"), [(404, 404), ([200, 404], 404), ([301], 301), (503, 503)])
def test_an_expected_status_is_a_success(expected: int | list[int], status: int) -> None:
    judge(answer(status), expected)


def test_a_2xx_that_was_not_expected_is_tried_again() -> None:
    with pytest.raises(TransientError):
        judge(answer(202), 200)
