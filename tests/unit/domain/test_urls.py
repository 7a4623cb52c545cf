"""What is wrong with a URL on its face (fault notes 4.4), and what a good one is read as."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.addresses import EgressAllow
from app.domain.urls import FORBIDDEN_ADDRESS, UrlRefused, check_url, parse_target

NOTHING = EgressAllow()
LOOPBACK = EgressAllow.parse("127.0.0.0/8")


def words(text: str) -> list[str]:
    """A long list of short test cases, as one block of text."""
    return text.split()


SCHEMES = words("""
file:///etc/passwd ftp://a.example/ gopher://a.example/ data:text/plain,x javascript:alert(1)
ws://a.example/ //a.example/ a.example /x http:127.0.0.1 http:/127.0.0.1 http:///a.example
http:a.example http https:// httpx://a.example
""")
SHAPES = [
    *("", "http://", "http://:80/", "http://?x", "http://#x", "http://u:p@a.example/", "http://@a.example/"),
    *(
        "http:/\\127.0.0.1",
        "http://1.1.1.1@127.0.0.1/",
        "http://1.1.1.1\\@127.0.0.1/",
        "http://a.example\\x",
        "http://a.example/\\x",
    ),
    *("http://a.example:/", "http://a.example:0/", "http://a.example:99999/", "http://a.example:65536/"),
    *("http://a.example:-1/", "http://a.example:8_0/", "http://a.example:+80/", "http://a.example:٨٠/"),
    *("http://a.example:80:80/", "http://a..example/", "http://.example/", "http://-a.example/"),
    *("http://a%2eexample/", "http://%31%32%37.0.0.1/", "http://a.example%00/", "http://a$b.example/"),
    *("http://bücher.example/", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://\uff4cocalhost/"),
    *("http://\uff11\uff12\uff17.0.0.1/", "http://[v1.x]/", "http://[fe80::1%25eth0]/"),
    *("http://a.example/\t", "http://a.example/\r\nX: y", "http://a.example/\0", "http://a.example/a b"),
    *(" http://a.example/", "http://a.example/ ", "http://a.example/\u00a0", "http://a.example/\u2028"),
    *("http://a.exa\tmple/", "http://a.example/\u202ex", "http://a.example/\ud800", "http://a.example/\x7f"),
    *("http://[::1", "http://::1/", "http://[::1]x/", "http://[]/"),
    "http://a.example/" + "a" * 2048,
]
# Every spelling that a resolver may take for an address, whatever address that is.
SPELLINGS = words("""
127.1 127.0.1 0x7f.1 0x7f000001 0X7F000001 2130706433 017700000001 0 0x 127.0.0.1. 0177.0.0.1 127.0.0.01
256.0.0.1 1.2.3.4.5 134744072 0x8.8.8.8 0xa9fea9fe 1.1.1.1. 999999999999 a.1 00000000.0.0.0
""")
FORBIDDEN = words("""
127.0.0.1 127.255.0.1 0.0.0.0 10.0.0.1 192.168.1.1 169.254.169.254 100.100.100.200 168.63.129.16
192.0.0.192 224.0.0.1 [::] [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1]
[::FFFF:169.254.169.254] [64:ff9b::a9fe:a9fe] [2002:a9fe:a9fe::] [fd00:ec2::254] [::127.0.0.1]
[2a00::5efe:10.0.0.1] [fe80::1] localhost LOCALHOST localhost. a.localhost A.LocalHost.
localhost.localdomain ip6-loopback metadata metadata.google.internal METADATA.GOOGLE.INTERNAL.
metadata.goog instance-data
""")


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
def test_what_a_good_url_is_read_as(url: str, scheme: str, netloc: str, path: str) -> None:
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
