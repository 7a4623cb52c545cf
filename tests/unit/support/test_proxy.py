"""The TCP proxy breaks links in the ways that it says."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.servers.proxy import Proxy
from tests.support.waiting import until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1024):
                writer.write(chunk)
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Proxy(f"127.0.0.1:{port}") as proxy:
        yield proxy
    server.close()


async def dial(proxy: Proxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def say(streams: Streams, text: bytes, timeout: float = 5.0) -> bytes:
    reader, writer = streams
    writer.write(text)
    return await asyncio.wait_for(reader.readexactly(len(text)), timeout)


async def test_passes_bytes_both_ways_and_the_end_of_a_stream(proxy: Proxy) -> None:
    streams = await dial(proxy)
    assert await say(streams, b"hello") == b"hello"
    streams[1].write_eof()
    assert await streams[0].read() == b""
    await until(lambda: proxy.connections == 0)


async def test_cut_resets_open_and_new_connections(proxy: Proxy) -> None:
    streams = await dial(proxy)
    await say(streams, b"hello")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(streams[0].readexactly(1), 5)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await say(await dial(proxy), b"hello")
    await proxy.heal()
    assert await say(await dial(proxy), b"again") == b"again"


async def test_refuse_lets_nobody_connect(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await dial(proxy)
    await proxy.heal()
    assert await say(await dial(proxy), b"again") == b"again"


async def test_a_black_hole_keeps_what_it_swallowed_until_it_heals(proxy: Proxy) -> None:
    streams = await dial(proxy)
    await say(streams, b"hello")
    proxy.blackhole()
    late = await dial(proxy)
    for one in (streams, late):
        with pytest.raises(TimeoutError):
            await say(one, b"into the dark", timeout=0.1)
    await proxy.heal()
    assert await asyncio.wait_for(streams[0].readexactly(13), 5) == b"into the dark"
    assert await asyncio.wait_for(late[0].readexactly(13), 5) == b"into the dark"


async def test_delay_holds_each_chunk(proxy: Proxy) -> None:
    streams = await dial(proxy)
    proxy.delay(0.1)
    started = asyncio.get_running_loop().time()
    assert await say(streams, b"slow") == b"slow"
    assert asyncio.get_running_loop().time() - started >= 0.2  # there and back


async def test_watch_can_cut_the_link_at_a_chunk(proxy: Proxy) -> None:
    streams = await dial(proxy)
    proxy.watch = lambda direction, chunk: proxy.cut() if (direction, chunk) == ("down", b"COMMIT") else None
    assert await say(streams, b"INSERT") == b"INSERT"
    with pytest.raises(ConnectionResetError):
        await say(streams, b"COMMIT")


async def test_url_for_keeps_everything_but_the_address(proxy: Proxy) -> None:
    url = proxy.url_for("amqp://guest:p%40ss@10.0.0.1:5672/vhost?heartbeat=5")
    assert url == f"amqp://guest:p%40ss@127.0.0.1:{proxy.port}/vhost?heartbeat=5"


async def test_slices_pass_all_bytes_in_order(proxy: Proxy) -> None:
    seen: list[int] = []
    streams = await dial(proxy)
    proxy.slice(3)
    text = bytes(range(256)) * 4
    assert await say(streams, text) == text
    proxy.watch = lambda direction, chunk: seen.append(len(chunk))
    await say(streams, b"hello again")
    assert seen, "the link still carries what comes after"


async def test_a_half_closed_link_flows_on_the_other_way(proxy: Proxy) -> None:
    streams = await dial(proxy)
    await say(streams, b"hello")
    proxy.half_close("down")
    assert await asyncio.wait_for(streams[0].read(), 5) == b""
    streams[1].write(b"into the void")
    await streams[1].drain()
    assert await say(await dial(proxy), b"whole") == b"whole"
