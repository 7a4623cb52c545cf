"""The servers that the operator names by one URL each: what a URL may say, and what to do when a server refuses us.

No text of this module's errors contains a password, or a part of a URL that could be one.
"""

import re
import socket
import ssl
from dataclasses import dataclass, field
from errno import ECONNREFUSED
from typing import Literal
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit, urlunsplit

from accepted.errors import did_you_mean

MAX_ADDRESS = 254
"""Characters (RFC 5321, 4.5.3.1.3, without the brackets)."""

_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
MAILBOX = rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*"
ADDRESS = f"^{MAILBOX}$"
"""A dot-atom at a host name (RFC 5321, 4.1.2), in ASCII: no quoted names, no comments, no address literals."""

ADDRESS_OR_DOMAIN = rf"^(?:{MAILBOX}|@{_LABEL}(?:\.{_LABEL})*)$"

Security = Literal["starttls", "tls", "none"]

SCHEMES: dict[str, tuple[Security, int]] = {
    "smtp": ("starttls", 587),
    "smtps": ("tls", 465),
    "smtp+plain": ("none", 25),
}
"""The security and the usual port of each scheme. STARTTLS is mandatory (RFC 8314, section 3.3)."""

_PASSED_ON = {
    "host", "port", "dbname", "user", "password", "passfile", "service", "sslmode", "sslcert", "sslkey", "sslrootcert",
    "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
    "target_session_attrs", "krbsrvname", "gsslib",
}  # fmt: skip
"""libpq's parameters that asyncpg reads itself (https://www.postgresql.org/docs/18/libpq-connect.html)."""

_NUMBERS = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
}  # fmt: skip
_TEXTS = {"application_name", "fallback_application_name", "options"}

_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES: dict[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": ("any", "read-write", "primary"),  # a ledger that cannot be written to is none
    "gsslib": ("gssapi", "sspi"),
    "keepalives": ("0", "1"),
    # Parameters of which the driver does one thing only: that one may be named.
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("UTF8", "utf8", "UTF-8", "utf-8", "auto"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "max_protocol_version": ("3.0", "3.2", "latest"),
    "min_protocol_version": ("3.0",),
    "replication": ("0", "false", "off", "no"),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
_NOT_SUPPORTED = {
    "hostaddr", "require_auth", "requirepeer", "scram_client_key", "scram_server_key", "servicefile", "sslcrldir",
    "sslkeylogfile", "oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
}  # fmt: skip
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")
_PARAMETERS = _PASSED_ON | _NUMBERS | _TEXTS | _CHOICES.keys() | _NOT_SUPPORTED

_AMQP_PARAMETERS = {
    "auth", "cadata", "cafile", "capath", "certfile", "happy_eyeballs_delay", "heartbeat", "interleave", "keyfile",
    "name", "no_verify_ssl", "timeout",
}  # fmt: skip
"""The parameters of a URL that aio-pika and aiormq read."""

_ENCODE = "special characters in a user or a password must be percent-encoded"


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """`postgresql://user:password@host:5432/database?sslmode=…`, with the parameters of libpq."""

    for_driver: str = field(repr=False)
    """The same URL with the parameters that asyncpg reads itself."""
    hosts: str
    """`host:port`, several with commas; empty: the driver's default."""
    user: str | None
    database: str | None
    texts: dict[str, str]
    numbers: dict[str, int]
    files: tuple[str, ...]
    """Files that must be readable."""

    @classmethod
    def parse(cls, url: str) -> "PostgresUrl":
        """Raises `ValueError` for a URL with which no connection could be opened."""
        parts = _split(url.replace("postgresql+asyncpg://", "postgresql://", 1))
        query = _query(parts.query)
        if query.pop("ssl", None) == "true":  # as JDBC names it; libpq takes it too
            query.setdefault("sslmode", "require")
        for name, value in query.items():
            _check_parameter(name, value)
        login, _, hosts = parts.netloc.rpartition("@")
        user = login.partition(":")[0]
        kept = urlencode({name: query[name] for name in query if name in _PASSED_ON}, quote_via=quote)
        return cls(
            for_driver=urlunsplit(parts._replace(query=kept)),
            hosts=_hosts(unquote(hosts) or query.get("host", ""), query.get("port", "5432"), query.get("service")),
            user=unquote(user) or query.get("user"),
            database=unquote(parts.path.lstrip("/")) or query.get("dbname"),
            texts={name: query[name] for name in query if name in _TEXTS},
            numbers={name: int(query[name]) for name in query if name in _NUMBERS},
            files=tuple(query[name] for name in _FILES if query.get(name)),
        )


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    """One node of a broker: `amqp://user:password@host:5672/vhost`."""

    host: str
    port: int
    user: str
    vhost: str
    heartbeat: bool
    """Whether the URL sets the heartbeat."""

    @classmethod
    def parse(cls, url: str) -> "AmqpUrl":
        """Raises `ValueError` for a URL with which no connection could be opened."""
        parts = _split(url)
        query = _query(parts.query)
        for name in query:
            if name not in _AMQP_PARAMETERS:
                raise ValueError(f"has an unknown parameter {name}{did_you_mean(name, _AMQP_PARAMETERS)}")
        usual = 5671 if parts.scheme == "amqps" else 5672
        user, vhost = unquote(parts.username or "guest"), unquote(parts.path[1:]) or "/"
        return cls(parts.hostname or "localhost", parts.port or usual, user, vhost, "heartbeat" in query)

    def __str__(self) -> str:
        return f"the broker at {self.host}:{self.port}, virtual host {self.vhost!r}, user {self.user!r}"


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """A mail server and, if it needs one, a login."""

    host: str
    port: int
    security: Security
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> "SmtpServer":
        """Parse `smtp://user:password@host:587`. The text of the ValueError contains no part of the URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in SCHEMES:
            raise ValueError("must start with smtp://, smtps:// or smtp+plain://")
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("must be a host, and at most a user, a password and a port")
        security, usual_port = SCHEMES[parts.scheme]
        if (parts.username is None) != (parts.password is None):
            raise ValueError("must have both a user and a password, or neither")
        if security == "none" and parts.username is not None:
            raise ValueError("must not send a password without TLS: use smtp:// or smtps://")
        user, password = (text and unquote(text) for text in (parts.username, parts.password))
        return cls(parts.hostname, port or usual_port, security, user, password)


_ADVICE = {
    "28P01": "correct the user or the password in {setting}",
    "28000": "correct the user in {setting}, or admit it in the server's pg_hba.conf",
    "3D000": "create the database, or correct its name in {setting}",
    "42501": "let the user connect: GRANT CONNECT ON DATABASE",
    "42704": "correct the parameters in {setting}",
    "53300": "raise the server's max_connections, or run fewer processes",
    "57P03": "it is starting or stopping, and will be asked again",
    None: "see the server's log",
}
"""What to do when PostgreSQL refuses a connection, by SQLSTATE."""


def refusal(error: BaseException, setting: str) -> str:
    """What a server, or the way to it, answered, and what to do about it, in one line."""
    text = first_line(error)
    if state := getattr(error, "sqlstate", None):
        return f"{text} ({state}); {_ADVICE.get(state, _ADVICE[None]).format(setting=setting)}"
    if isinstance(error, socket.gaierror):
        return f"its name does not resolve ({error.strerror or text}); correct the host in {setting}"
    if isinstance(error, TimeoutError):
        return f"it did not answer in time; check that it runs, the network, and the host and port in {setting}"
    if isinstance(error, ssl.SSLError) or "SSL" in text or "TLS" in text:
        return f"TLS failed: {getattr(error, 'verify_message', None) or text}; correct the TLS settings in {setting}"
    if getattr(error, "errno", None) == ECONNREFUSED or f"[Errno {ECONNREFUSED}]" in text:  # or of several addresses
        return f"connection refused; start it, or correct the host and port in {setting}"
    return f"{text}; check that it runs, and {setting}"


def first_line(error: BaseException) -> str:
    """The error's text without the lines in which PostgreSQL quotes values; its class if it has none."""
    text = str(getattr(error, "message", None) or error)
    return text.partition("\n")[0].strip() or type(error).__name__


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if "#" in url or parts.netloc.count("@") > 1 or ("@" not in parts.netloc and "@" in parts.path):
        raise ValueError(_ENCODE)
    if "@" not in parts.netloc and "@" in parts.query and "password=" not in parts.query:
        raise ValueError(_ENCODE)
    try:
        for host in parts.netloc.rpartition("@")[2].split(","):
            _ = urlsplit("//" + host).port
    except ValueError:  # its text may hold a part of the password
        raise ValueError(f"has an invalid port; {_ENCODE}") from None
    return parts


def _query(query: str) -> dict[str, str]:
    """The last value of each parameter; `+` is a plus, as in libpq."""
    found = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch("[a-z][a-z_]*", name):
            raise ValueError("has a parameter that is not name=value")
        found[name] = unquote(value)
    return found


def _check_parameter(name: str, value: str) -> None:
    if name not in _PARAMETERS:
        hint = f"{did_you_mean(name, _PARAMETERS)} (a setting of the server is given as options=-c name=value)"
        raise ValueError(f"has a parameter {name} that libpq does not know{hint}")
    if name in _NOT_SUPPORTED:
        raise ValueError(f"has a parameter {name}, which the driver does not support; leave it out")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"has a parameter {name} that must be one of {', '.join(_CHOICES[name])}")
    if name in _NUMBERS and not re.fullmatch("[0-9]{1,6}", value):
        raise ValueError(f"has a parameter {name} that must be a whole number")
    if name == "port" and not all(port.isdecimal() and 0 < int(port) < 65536 for port in value.split(",")):
        raise ValueError("has a parameter port that must be a number up to 65535")
    if name == "sslrootcert" and value == "system":
        raise ValueError("has sslrootcert=system, which the driver does not support; name the file of certificates")
    if "\0" in value:
        raise ValueError(f"has a parameter {name} with a zero byte")


def _hosts(hosts: str, port: str, service: str | None) -> str:
    """Each host with its port."""
    if not hosts:
        return f"service {service}" if service else ""
    ports = port.split(",")
    named = []
    for number, host in enumerate(hosts.split(",")):
        has_port = host.startswith("/") or urlsplit("//" + host).port is not None
        named.append(host if has_port else f"{host}:{ports[min(number, len(ports) - 1)]}")
    return ",".join(named)
