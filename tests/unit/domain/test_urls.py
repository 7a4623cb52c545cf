"""URLs that are refused before resolution (fault notes 4.4), and how valid ones are parsed."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import FORBIDDEN_ADDRESS, UrlRefused, check_url, parse_target
from tests.support.bad_urls import FORBIDDEN, SCHEMES, SHAPES, SPELLINGS, words

NOTHING = EgressAllow()
LOOPBACK = EgressAllow.parse("127.0.0.0/8")


@pytest.mark.parametrize("url", [*SCHEMES, *SHAPES, *(f"http://{host}/" for host in SPELLINGS)])
@pytest.mark.parametrize("allow", [NOTHING, EgressAllow.parse("0.0.0.0/0,::/0,localhost,a.example")])
def test_malformed_is_refused_whatever_is_allowed(url: str, allow: EgressAllow) -> None:
    with pytest.raises(UrlRefused):
        check_url(url, allow)


@pytest.mark.parametrize("host", FORBIDDEN)
@pytest.mark.parametrize("form", ["http://{}/", "HTTPS://{}:8443/x?y#z", "http://{}"])
def test_a_host_that_is_not_public_is_refused_with_one_text(host: str, form: str) -> None:
    with pytest.raises(UrlRefused) as refusal:
        check_url(form.format(host), NOTHING)
    assert str(refusal.value) == FORBIDDEN_ADDRESS


@pytest.mark.parametrize(
    "url",
    ["http://u:hunter2@a.example/", "http://a.example:99999/hunter2", "ftp://hunter2/", "http://hunter2.1/"],
)
def test_no_refusal_echoes_the_url(url: str) -> None:
    with pytest.raises(UrlRefused) as refusal:
        check_url(url, NOTHING)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://[::ffff:127.0.0.1]/", "http://localhost/"])
def test_an_allowed_network_opens_its_literals_and_the_loopback_names(url: str) -> None:
    check_url(url, LOOPBACK)


def test_an_allowed_host_opens_that_name_only() -> None:
    check_url("http://localhost/", EgressAllow.parse("localhost"))
    check_url("http://Metadata.Google.Internal./", EgressAllow.parse("metadata.google.internal"))
    for url in ("http://127.0.0.1/", "http://a.localhost/"):
        with pytest.raises(UrlRefused):
            check_url(url, EgressAllow.parse("localhost"))


@pytest.mark.parametrize(
    ("url", "scheme", "netloc", "path"),
    [
        ("https://a.example", "https", "a.example", "/"),
        ("https://a.example?x=1", "https", "a.example", "/?x=1"),
        ("HTTP://A.Example.:80/b/../c?d=e#f", "http", "a.example", "/b/../c?d=e"),
        ("http://a.example:8080/%2f%zz/[x]?q=[1]&r='", "http", "a.example:8080", "/%2f%zz/[x]?q=[1]&r='"),
        ("https://a.example:80/@x:y", "https", "a.example:80", "/@x:y"),
        ('https://a.example/é"<>?ü', "https", "a.example", "/%C3%A9%22%3C%3E?%C3%BC"),
        ("http://[2606:4700::0:1111]:81/", "http", "[2606:4700::1111]:81", "/"),
        ("http://8.8.8.8/", "http", "8.8.8.8", "/"),
        ("http://my_service.example:00443/", "http", "my_service.example:443", "/"),
        ("http://a.example/" + "a" * 2031, "http", "a.example", "/" + "a" * 2031),
    ],
)
def test_valid_urls(url: str, scheme: str, netloc: str, path: str) -> None:
    target = parse_target(url, NOTHING)
    assert (target.scheme, target.netloc, target.path) == (scheme, netloc, path)


PREFIXES = ["http://", "http://a.example", "https://8.8.8.8:", "HTTPS://", "http:", "http:/"]
PIECES = words("a.example 8.8.8.8 127.1 [2606:4700::1] @ : 80 / \\ ? # 。 %00 %zz .. . é [ ] ' < ; | A - 0x7f")
REST = st.lists(st.sampled_from([*PIECES, " ", "\t", "\u202e", "\ud800"]), max_size=8).map("".join)


@given(st.sampled_from(PREFIXES), REST)
def test_any_text_is_refused_or_read_as_httpx_reads_it(prefix: str, rest: str) -> None:
    try:
        target = parse_target(prefix + rest, NOTHING)
    except UrlRefused:
        return
    other = httpx.URL(prefix + rest)
    assert target.host == other.host.removesuffix(".")
    assert target.port == (other.port or {"http": 80, "https": 443}[other.scheme])
    assert all("!" <= char <= "~" for char in target.path)
