"""Target URLs: what is refused before the name is resolved, and the parts that go into the request.

This is the only parser between the submitted text and the socket. The worker builds its request from the `Target` made
here, so no second parser can find another host in the same text. The grammar is narrow: what RFC 3986, the WHATWG and
resolvers read differently (user-info, backslashes, `127.1`, full-width digits) is refused.
"""

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

from accepted.domain.network.addresses import EgressAllow, IPAddress, is_host_name

# Common proxies and servers accept this length; longer URLs fail on some of them.
MAX_URL_CHARS = 2048

# One text for every refused address, at submission and after resolution, so that it reveals nothing about the network.
FORBIDDEN_ADDRESS = "forbidden address"

DEFAULT_PORTS = {"http": 80, "https": 443}

_URL = re.compile(r"(?P<scheme>[a-z]+)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:]+)(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)
_DOTTED_QUAD = re.compile(r"[0-9]+(?:\.[0-9]+){3}")

# Unicode categories: control, format (such as right-to-left marks), surrogate, and every kind of space.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})

# Left as written in path and query; the rest (quotes, angle brackets, non-ASCII) is percent-encoded as UTF-8.
_SAFE = "!$%&'()*+,-./:;=?@[]^_|~"

_LOOPBACKS = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})


ANYWHERE = EgressAllow.parse("0.0.0.0/0,::/0")


class UrlRefused(ValueError):
    """The URL is refused before its name is resolved. Clients see the text, which never contains the URL."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL, in the parts of a request.

    `host` is lower-case ASCII without a trailing dot, or an IP literal without brackets, also in `address`.
    `path` is the request target: path and query, percent-encoded, never the fragment.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: IPAddress | None

    @property
    def netloc(self) -> str:
        """The value of the Host header field (RFC 9110, 7.2): the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(url: str, allow: EgressAllow) -> None:
    """Raise `UrlRefused` if no worker could ever call `url`. Names are not resolved here."""
    parse_target(url, allow)


def allowing_host_of(url: str) -> EgressAllow:
    """The permission to call the host of `url`, which the operator chose. `UrlRefused` if `url` is malformed."""
    return EgressAllow.parse(parse_target(url, ANYWHERE).host)


def parse_target(url: str, allow: EgressAllow) -> Target:
    """Parse `url`. Raises `UrlRefused` as `check_url` does."""
    _check_characters(url)
    match = _URL.fullmatch(url)
    if match is None or match["scheme"].lower() not in DEFAULT_PORTS:
        raise UrlRefused("a URL begins with http:// or https://")
    scheme = match["scheme"].lower()
    host, port = _authority(match["authority"])
    address = _literal(host)
    name = host.removesuffix(".").lower() if address is None else str(address)
    _check_allowed(name, address, allow)
    return Target(scheme, name, port or DEFAULT_PORTS[scheme], _request_target(match["target"]), address)


def _check_characters(url: str) -> None:
    if len(url) > MAX_URL_CHARS:
        raise UrlRefused(f"a URL of more than {MAX_URL_CHARS} characters")
    if "\\" in url:
        raise UrlRefused("a URL with a backslash")
    if any(unicodedata.category(char) in _INVISIBLE for char in url):
        raise UrlRefused("a URL with a space or an invisible character")


def _authority(authority: str) -> tuple[str, int | None]:
    """The host as written, and the port, if any."""
    if "@" in authority:
        raise UrlRefused("a URL with user-info (a name or password before an @)")
    if not authority or authority.startswith(":"):
        raise UrlRefused("a URL without a host")
    if not authority.isascii():
        raise UrlRefused("a host that is not ASCII: write the name in its xn-- form")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise UrlRefused("a host or port that is not well-formed")
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        raise UrlRefused("a port outside 1 to 65535")
    return match["host"], port


def _literal(host: str) -> IPAddress | None:
    """The address `host`, None for a name. Refused if resolvers do not agree whether it is an address."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1])
        if _DOTTED_QUAD.fullmatch(host):
            return IPv4Address(host)
    except ValueError:
        raise UrlRefused("a host that is no valid IP address") from None
    if not is_host_name(host.removesuffix(".").lower()):
        raise UrlRefused("a host that is neither a name nor an IP address in its usual form")
    return None


def _check_allowed(name: str, address: IPAddress | None, allow: EgressAllow) -> None:
    if address is not None:
        refused = not allow.permits(address)
    elif name in allow.hosts:
        refused = False
    elif name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        refused = not any(allow.covers(loopback) for loopback in _LOOPBACKS)
    else:
        refused = name in _METADATA_NAMES
    if refused:
        raise UrlRefused(FORBIDDEN_ADDRESS)


def _request_target(text: str) -> str:
    target = quote(text, safe=_SAFE)
    return target if target.startswith("/") else f"/{target}"
