"""Where the service is, and how requests, answers and failures are those of httpx. Without I/O."""

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accepted.client.errors import ClientError
from accepted.client.exchange import Limits
from accepted.client.steps import ApiAnswer, ApiRequest, NoAnswer
from accepted.environment import PREFIX

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Connection:
    """The service at `url`; `timeout` is in seconds, for connecting and for each silence of an answer."""

    url: str
    api_key: str
    timeout: float
    limits: Limits

    @classmethod
    def to(
        cls, url: str | None, api_key: str | None, timeout: float, max_tries: int, max_seconds: float
    ) -> "Connection":
        """What is not given comes from the environment. Raises `ClientError` for a key that cannot be sent."""
        address = url or os.environ.get(f"{PREFIX}URL") or DEFAULT_URL
        key = (api_key or os.environ.get(f"{PREFIX}API_KEY") or "").strip()  # a file ends with a line break
        if not re.fullmatch("[!-~]*", key):
            raise ClientError(f"{PREFIX}API_KEY=(hidden): has a character that is no part of a key")
        return cls(address.strip().rstrip("/"), key, timeout, Limits(max_tries, max_seconds))

    @property
    def encrypted(self) -> bool:
        """Whether certificates are needed: loading them takes 50 ms."""
        return not self.url.lower().startswith("http://")

    def headers(self) -> dict[str, str]:
        """Those of every request."""
        return {"User-Agent": "accepted-python"} | ({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})

    def arguments(self, request: ApiRequest) -> dict[str, Any]:
        """Those of `httpx.Client.build_request`."""
        return {
            "method": request.method,
            "url": self.url + request.path,
            "params": request.query or None,
            "headers": dict(request.headers),
            "content": request.content,
            "timeout": self.timeout + request.patience,
        }

    def check(self) -> None:
        """Raises `ClientError` for what is not the URL of a server: a request to it would not even be begun."""
        import httpx

        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise _not_a_url() from None
        if url.scheme not in ("http", "https") or not url.host:
            raise _not_a_url()

    def failure(self, error: Exception) -> NoAnswer:
        """How the connection failed, for an `httpx.HTTPError`. Raises `ClientError` for what cannot be sent at all."""
        import httpx

        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            raise _not_a_url() from None
        if not isinstance(error, httpx.HTTPError):  # such as a header that is not ASCII
            raise ClientError(f"this cannot be sent: {error}") from None
        return NoAnswer(f"{re.sub('//[^/]*@', '//', self.url)}: {error or type(error).__name__}", was_sent(error))


def _not_a_url() -> ClientError:
    """It quotes nothing of the URL, which may hold a password."""
    return ClientError(f"{PREFIX}URL=(hidden): is not a URL, such as {DEFAULT_URL}")


def was_sent(error: "httpx.HTTPError") -> bool:
    """Whether the service may have seen something of the request that failed so."""
    import httpx

    before = httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol
    return not isinstance(error, before)


def answer_of(response: "httpx.Response", lines: Any = None) -> ApiAnswer:
    """The answer; `lines` of one that is a stream."""
    url = str(response.url.copy_with(userinfo=b""))
    body = b"" if lines is not None else response.content
    return ApiAnswer(response.status_code, response.reason_phrase, url, response.headers, body, lines)
