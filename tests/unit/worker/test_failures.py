"""The failure class of an exception that names none. Contract, section 5: every exception has one."""

import asyncio
import socket
import ssl
from email.utils import formatdate
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import exc

from accepted.domain.failures import AuthError, HandlerError, InvalidJob, NotFound, RateLimited, TransientError
from accepted_worker.attempt import failures

REQUEST = httpx.Request("GET", "https://example.com/?token=Canary")


def answered(status: int, **headers: str) -> httpx.HTTPStatusError:
    answer = httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, request=REQUEST)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        answer.raise_for_status()
    return caught.value


def by_asyncpg(state: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": state, "M": "says PostgreSQL", "S": "ERROR", "D": "Key (email)=(Canary)"})


def by_sqlalchemy(state: str) -> exc.DBAPIError:
    """As SQLAlchemy's dialect raises it: an exception of the dialect, caused by the driver's."""
    driver: Any = Exception("<class 'x'>: says PostgreSQL")
    driver.sqlstate = state
    driver.__cause__ = by_asyncpg(state)
    return exc.DBAPIError("SELECT 'Canary'", {"a": "Canary"}, driver)


TABLE: list[tuple[BaseException, str]] = [
    (httpx.ReadTimeout("x"), "timeout"),
    (httpx.ConnectTimeout("x"), "timeout"),
    (httpx.PoolTimeout("x"), "timeout"),
    (TimeoutError(), "timeout"),
    (httpx.ConnectError("x"), "transient"),
    (httpx.ReadError("x"), "transient"),
    (httpx.RemoteProtocolError("x"), "transient"),
    (httpx.DecodingError("x"), "transient"),
    (httpx.InvalidURL("x"), "invalid"),
    (httpx.UnsupportedProtocol("x"), "invalid"),
    (httpx.LocalProtocolError("x"), "invalid"),
    (httpx.TooManyRedirects("x"), "invalid"),
    *((answered(status), "transient") for status in (500, 502, 503, 504, 408, 425)),
    (answered(429), "rate_limited"),
    (answered(503, retry_after="7"), "rate_limited"),
    *((answered(status), "auth") for status in (401, 403, 407)),
    (answered(404), "not_found"),
    *((answered(status), "invalid") for status in (400, 409, 410, 422, 301, 304)),
    *((make(state), "transient") for make in (by_asyncpg, by_sqlalchemy) for state in (
        "40001", "40P01", "08006", "53300", "55P03", "57014", "57P01", "58030", "XX000", "42P01", "42601",
        "23505", "23503",
    )),
    *((make(state), "invalid") for make in (by_asyncpg, by_sqlalchemy) for state in ("22001", "22P02")),
    *((make(state), "auth") for make in (by_asyncpg, by_sqlalchemy) for state in ("28P01", "28000", "42501")),
    (exc.IntegrityError("x", None, Exception("another driver")), "transient"),
    (exc.DataError("x", None, Exception("another driver")), "invalid"),
    (exc.TimeoutError("QueuePool limit reached"), "transient"),
    (exc.OperationalError("x", None, Exception("another driver")), "transient"),
    (asyncpg.InterfaceError("x"), "transient"),
    (ConnectionResetError("x"), "transient"),
    (socket.gaierror(-2, "x"), "transient"),
    (ssl.SSLError("x"), "transient"),
    (OSError(28, "No space left on device"), "transient"),
    (ValueError("x"), "transient"),
    (KeyError("x"), "transient"),
    (MemoryError(), "transient"),
    (SystemExit(3), "transient"),
    (KeyboardInterrupt(), "transient"),
    (GeneratorExit(), "transient"),
    (asyncio.CancelledError(), "transient"),
    (ExceptionGroup("x", [InvalidJob("x"), AuthError("y")]), "invalid"),
    (ExceptionGroup("x", [InvalidJob("x"), ExceptionGroup("y", [ValueError("z")])]), "transient"),
    (BaseExceptionGroup("x", [NotFound("x"), SystemExit()]), "transient"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "failure"), TABLE, ids=lambda value: value if isinstance(value, str) else repr(value)[:50]
)
def test_the_table(error: BaseException, failure: str) -> None:
    found = failures.of(error)
    assert found.failure_class == failure
    assert "Canary" not in str(found), "no URL, statement or parameter"


def all_exceptions(root: type[BaseException]) -> list[type[BaseException]]:
    return [root, *(found for kind in root.__subclasses__() for found in all_exceptions(kind))]


@given(st.sampled_from(all_exceptions(BaseException)))
def test_every_builtin_exception_has_a_class(kind: type[BaseException]) -> None:
    try:
        error = kind()
    except Exception:  # some need arguments
        assume(False)
    assert isinstance(failures.of(error), HandlerError)


@given(st.sampled_from([InvalidJob, AuthError, NotFound, TransientError, RateLimited]), st.text())
def test_an_exception_that_names_its_class_keeps_it(kind: type[HandlerError], text: str) -> None:
    error = kind(text)
    assert failures.of(error) is error


def test_a_group_waits_for_the_longest_retry_after_of_its_members() -> None:
    members = [InvalidJob("x"), RateLimited("a", retry_after=7), ValueError("y"), RateLimited("b", retry_after=90)]
    assert failures.of(ExceptionGroup("g", members)).retry_after == 90
    nested = ExceptionGroup("g", [TimeoutError(), ExceptionGroup("h", members)])
    assert (failures.of(nested).failure_class, failures.of(nested).retry_after) == ("rate_limited", 90)
    assert str(failures.of(ExceptionGroup("g", [TransientError("first"), TransientError("second")]))) == "first"


def test_an_exception_whose_str_raises() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert str(failures.of(Mute())) == "Mute"


def test_a_retry_after_is_read_as_seconds_or_date() -> None:
    assert failures.of(answered(429, retry_after="12")).retry_after == 12
    assert failures.of(answered(503, retry_after="999999")).retry_after == 86400
    date = formatdate(2e9, usegmt=True)
    assert failures.of(answered(429, retry_after=date)).retry_after == 86400
    assert failures.of(answered(429, retry_after="soon")).retry_after is None


def test_a_handler_may_pass_the_header_field_unparsed() -> None:
    assert RateLimited(retry_after="120").retry_after == 120
    assert RateLimited(retry_after=1.5).retry_after == 1.5
    assert RateLimited(retry_after="whenever").retry_after is None
    assert RateLimited().retry_after is None
