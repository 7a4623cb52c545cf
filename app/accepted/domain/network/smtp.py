"""The mail server, as the operator names it in one URL."""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

MAX_ADDRESS = 254
"""Characters (RFC 5321, 4.5.3.1.3, without the brackets)."""

_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
MAILBOX = rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*"
ADDRESS = f"^{MAILBOX}$"
"""A dot-atom at a host name (RFC 5321, 4.1.2), in ASCII: no quoted names, no comments, no address literals."""

Security = Literal["starttls", "tls", "none"]

SCHEMES: dict[str, tuple[Security, int]] = {
    "smtp": ("starttls", 587),
    "smtps": ("tls", 465),
    "smtp+plain": ("none", 25),
}
"""The security and the usual port of each scheme. STARTTLS is mandatory (RFC 8314, section 3.3)."""


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
