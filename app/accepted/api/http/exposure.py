"""Who may reach a service whose authentication is off: programs of this machine, and no web page.

Every page that somebody opens can send requests to loopback through the browser. It may read the answers if its own
name leads here (DNS rebinding), and needs no answer for a POST that changes something. So with AUTH=off a request must
name a host that no foreign DNS controls, and a browser must not say that a page of another origin sends it. With keys
neither is needed: a page has no key.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from starlette.types import Scope

from accepted.domain.network.addresses import HostList, read_address, within
from accepted.errors import ConfigurationError, CrossSite, Misdirected, Refused
from accepted.settings import Settings

HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
"""The value of Host: a name or an address, and perhaps a port."""

BOUND = "accepted.bound"
"""The key in a request's ASGI scope of the `--host` that the process was given."""

_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

_OWN_SITE = frozenset({b"same-origin", b"none"})
"""Sec-Fetch-Site for pages of this service, and for what a person typed (W3C Fetch Metadata). `same-site` is another
port of the same host: another service."""

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}

REMEMBERED = 256
"""Combinations of what is asked whose answer is kept: a client sends the same with each request."""

_ASKED = frozenset({b"host", b"origin", b"sec-fetch-site"})

Field: TypeAlias = tuple[bytes, bytes]
Fields: TypeAlias = Iterable[Field]


def check(settings: Settings, host: str, insecure: bool) -> None:
    """Refuse to serve without authentication on an address that others can reach."""
    if settings.auth == "off" and not insecure and not _is_loopback(host):
        raise ConfigurationError(
            f"ACCEPTED_AUTH=off: refused on {host}, which is not loopback; use required, or give --insecure"
        )


class BrowserGuard:
    """Refuses, while authentication is off, what a web page of another origin may have sent."""

    def __init__(self, allowed: HostList) -> None:
        self._allowed = allowed
        self._refusal = lru_cache(maxsize=REMEMBERED)(self._judge)

    def refused(self, scope: Scope, sent: Fields) -> Refused | None:
        """Why the request of `scope` is refused; None: it is not.

        `sent` are the fields as they arrived. A page can add X-Forwarded-Host, but not choose its Host, so both are
        looked at if a trusted proxy has replaced it.
        """
        fields = scope["headers"]
        asked = tuple([field for field in fields if field[0] in _ASKED])
        hosts = () if sent is fields else tuple(_values(sent, b"host"))
        refusal = self._refusal(asked, hosts, scope.get(BOUND), (scope.get("server") or ("",))[0])
        return None if refusal is None else refusal()

    def _judge(
        self, asked: tuple[Field, ...], sent_hosts: tuple[bytes, ...], bound: str | None, server: str
    ) -> type[Refused] | None:
        hosts = _values(asked, b"host")
        for host in (*sent_hosts, *hosts):
            if not self._is_ours(host.decode("latin-1").lower(), bound, server):
                return Misdirected
        return CrossSite if _is_of_other_site(asked) or _has_other_origin(asked, hosts) else None

    def _is_ours(self, host: str, bound: str | None, server: str) -> bool:
        name = host if host.endswith("]") else re.sub(r":[0-9]+\Z", "", host)
        if name in ("localhost", bound) or name in self._allowed.hosts or name.strip("[]") == server:
            return True
        address = read_address(name)
        return address is not None and (within(address, _LOOPBACK) or self._allowed.covers(address))


def from_other_site(fields: Fields) -> bool:
    """Whether a browser says that a page of another site has sent a form.

    A browser that sends Sec-Fetch-Site is believed: the host in Origin is the public one, which a proxy may not tell.
    """
    asked = [field for field in fields if field[0] in _ASKED]
    if _values(asked, b"sec-fetch-site"):
        return _is_of_other_site(asked)
    return _has_other_origin(asked, _values(asked, b"host"))


def is_host(value: bytes) -> bool:
    """Whether `value` can be that of a Host field."""
    return HOST.fullmatch(value) is not None


def is_own_target(target: bytes, host: bytes) -> bool:
    """Whether a request's target, if it is a whole URL, names the same host as Host (RFC 9112 section 3.2.2)."""
    if target[:1] == b"/" or b"://" not in target:
        return True
    authority = re.split(rb"[/?#]", target.partition(b"://")[2], maxsplit=1)[0]
    return authority.lower() == host.lower()


def _is_of_other_site(asked: Fields) -> bool:
    return not _OWN_SITE.issuperset(_values(asked, b"sec-fetch-site"))


def _has_other_origin(asked: Fields, hosts: list[bytes]) -> bool:
    own = {_authority(scheme, host) for scheme in _DEFAULT_PORTS for host in hosts}
    return any(_origin(origin) not in own for origin in _values(asked, b"origin"))


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for field, value in fields if field == name]


def _origin(value: bytes) -> bytes:
    """The authority of an Origin, as `_authority`; nothing equals that of `null`."""
    scheme, separator, host = value.lower().partition(b"://")
    return _authority(scheme, host) if separator else value


def _authority(scheme: bytes, host: bytes) -> bytes:
    """Scheme and host, with the port that the scheme implies left out."""
    return scheme + b"://" + host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, b"\n"))


def _is_loopback(host: str) -> bool:
    address = read_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)
