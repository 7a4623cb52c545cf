"""What `Egress` relies on in httpcore: that a connection reaches the network through the backend it is given alone.

httpcore has an upper bound in pyproject.toml. Raise it when these pass with the newer version.
"""

import ssl
from collections.abc import Iterable

import httpcore

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Stream(httpcore.AsyncNetworkStream):
    """Answers any request, and notes what is done with it."""

    def __init__(self, calls: list[object]) -> None:
        self._calls = calls
        self._answers = [ANSWER, b""]

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._answers.pop(0)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._calls.append(buffer.partition(b"\r\n")[0])

    async def aclose(self) -> None:
        self._calls.append("closed")

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        self._calls.append((ssl_context, server_hostname))
        return self

    def get_extra_info(self, info: str) -> object:
        return None


class Backend(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self.calls: list[object] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.calls.append((host, port))
        return Stream(self.calls)


async def called(url: str, context: ssl.SSLContext) -> tuple[list[object], httpcore.Response, bytes]:
    """One GET as `Egress` makes it; the third is the body."""
    backend = Backend()
    request = httpcore.Request("GET", httpcore.URL(url), headers=[("Host", "host.invalid")])
    connection = httpcore.AsyncHTTPConnection(request.url.origin, ssl_context=context, network_backend=backend)
    response = await connection.handle_async_request(request)
    body = b"".join([chunk async for chunk in response.aiter_stream()])
    await response.aclose()
    return backend.calls, response, body


async def test_a_call_connects_once_and_resolves_nothing() -> None:
    calls, response, body = await called("http://host.invalid:81/path", ssl.create_default_context())
    assert calls[:2] == [("host.invalid", 81), b"GET /path HTTP/1.1"]
    assert (response.status, response.headers, body) == (200, [(b"Content-Length", b"2")], b"hi")


async def test_tls_is_started_on_our_stream_with_our_context() -> None:
    context = ssl.create_default_context()
    calls, _, _ = await called("https://host.invalid/", context)
    assert calls[:3] == [("host.invalid", 443), (context, "host.invalid"), b"GET / HTTP/1.1"]
