"""Name resolution for `accepted_worker.outbound.egress`."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address

from accepted.domain.network.addresses import IPAddress

# A lookup that hangs (10 s with a dead DNS server) takes a thread; other lookups wait, within their deadline.
DNS_THREADS = 32

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host name and port to addresses as text. OSError if the name does not resolve."""


class Lookup:
    """Name resolution in a bounded number of threads; calls for one name at the same time share a lookup."""

    def __init__(self, resolve: Resolve | None) -> None:
        self._resolve = resolve or self._getaddrinfo
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="egress-dns")
        self._under_way: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[IPAddress]:
        key = (host, port)
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(self._resolve(host, port))
            task.add_done_callback(partial(self._done, key))
        # Shielded: the deadline of the call that came first must not fail the others.
        return [ip_address(text) for text in await asyncio.shield(task)]

    async def _getaddrinfo(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(sockaddr[0]) for *_, sockaddr in found]

    def _done(self, key: tuple[str, int], task: asyncio.Task[list[str]]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # retrieved, even if every call that waited has met its deadline

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
