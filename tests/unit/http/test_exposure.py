"""Which requests a service without authentication refuses, whoever has sent them."""

import pytest

from accepted.api.http.exposure import BOUND, BrowserGuard, is_own_target
from accepted.api.http.middleware import ProxyHeaders
from accepted.domain.network.addresses import HostList, read_networks
from accepted.errors import CrossSite, Misdirected

GUARD = BrowserGuard(HostList.parse("10.1.0.0/16,Dev.Box"))
Fields = list[tuple[bytes, bytes]]


def refused(*fields: tuple[bytes, bytes], server: str = "127.0.0.1", bound: str = "127.0.0.1") -> str | None:
    scope = {"headers": list(fields), "server": (server, 8000), BOUND: bound}
    found = GUARD.refused(scope, scope["headers"])  # type: ignore[arg-type]
    return found and type(found).__name__


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "127.0.0.1", "127.9.9.9:1", "[::1]:8000", "[::ffff:127.0.0.1]", "10.1.2.3:8000",
     "dev.box", "DEV.box:80"],
)  # fmt: skip
def test_hosts_that_only_lead_here(host: str) -> None:
    assert refused((b"host", host.encode())) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.2.0.1",
     "dev.box.evil", "0.0.0.0", "169.254.169.254", "127.1", "2130706433", "0x7f.1", "[fe80::1]"],
)  # fmt: skip
def test_hosts_that_a_page_may_have_pointed_here(host: str) -> None:
    assert refused((b"host", host.encode())) == Misdirected.__name__


def test_its_own_address_and_name() -> None:
    assert refused((b"host", b"192.0.2.7:8000"), server="192.0.2.7", bound="0.0.0.0") is None
    assert refused((b"host", b"[2001:db8::7]"), server="2001:db8::7", bound="::") is None
    assert refused((b"host", b"build-host:8000"), server="192.0.2.7", bound="build-host") is None
    assert refused((b"host", b"192.0.2.8:8000"), server="192.0.2.7", bound="build-host") == Misdirected.__name__


LOCAL = (b"host", b"localhost:8000")


@pytest.mark.parametrize(
    "field",
    [(b"origin", b"null"), (b"origin", b""), (b"origin", b"http://evil.example"), (b"origin", b"http://localhost:3000"),
     (b"origin", b"http://localhost"), (b"origin", b"http://127.0.0.1:8000"), (b"origin", b"file://localhost:8000"),
     (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-site", b"same-site"), (b"sec-fetch-site", b"")],
)  # fmt: skip
def test_pages_of_others(field: tuple[bytes, bytes]) -> None:
    assert refused(LOCAL, field) == CrossSite.__name__


def test_each_of_several_is_looked_at() -> None:
    own = ((b"origin", b"http://localhost:8000"), (b"sec-fetch-site", b"same-origin"))
    assert refused(LOCAL, *own, (b"origin", b"http://evil.example")) == CrossSite.__name__
    assert refused(LOCAL, *own, (b"sec-fetch-site", b"cross-site")) == CrossSite.__name__
    assert refused(LOCAL, (b"host", b"evil.example")) == Misdirected.__name__


@pytest.mark.parametrize(
    ("host", "origin"),
    [(b"localhost:8000", b"http://localhost:8000"), (b"localhost:8000", b"HTTP://LOCALHOST:8000"),
     (b"localhost", b"http://localhost"), (b"localhost:80", b"http://localhost"), (b"dev.box", b"https://dev.box:443"),
     (b"[::1]:8000", b"http://[::1]:8000")],
)  # fmt: skip
def test_its_own_pages(host: bytes, origin: bytes) -> None:
    assert refused((b"host", host), (b"origin", origin), (b"sec-fetch-site", b"same-origin")) is None
    assert refused((b"host", host), (b"sec-fetch-site", b"none")) is None, "what a person has typed"


@pytest.mark.parametrize(
    ("sent", "forwarded", "origin", "expected"),
    [
        (b"127.0.0.1:8000", b"dev.box", b"https://dev.box", None),
        (b"127.0.0.1:8000", b"evil.example", b"https://evil.example", Misdirected),
        (b"evil.example", b"localhost", b"http://localhost", Misdirected),  # a page whose name leads to the proxy
        (b"127.0.0.1:8000", b"dev.box", b"http://127.0.0.1:8000", CrossSite),
    ],
)
def test_behind_a_trusted_proxy(sent: bytes, forwarded: bytes, origin: bytes, expected: type[Exception] | None) -> None:
    fields: Fields = [(b"host", sent), (b"x-forwarded-host", forwarded), (b"origin", origin)]
    scope = {"headers": fields, "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 9), "path": "/jobs"}
    ProxyHeaders("", read_networks("127.0.0.0/8")).apply(scope)
    found = GUARD.refused(scope, fields)
    assert (None if found is None else type(found)) is expected


@pytest.mark.parametrize(
    ("target", "own"),
    [(b"/jobs", True), (b"*", True), (b"/x?u=http://evil.example", True), (b"http://localhost:8000/jobs", True),
     (b"http://LOCALHOST:8000", True), (b"http://evil.example/jobs", False), (b"http://a@localhost:8000/", False),
     (b"http://localhost:8000.evil.example?", False)],
)  # fmt: skip
def test_a_target_that_is_a_whole_url_names_its_host(target: bytes, own: bool) -> None:
    assert is_own_target(target, b"localhost:8000") is own
