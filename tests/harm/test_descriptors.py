"""Clients that hold connections until the process has no descriptor for another one."""

import asyncio
import contextlib
import resource
from collections.abc import Iterator

import psutil
import pytest

from tests.support.servers.ports import free_port
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.processes import Service, answers
from tests.support.waiting import until


@pytest.mark.fault("F85", moment="clients that only connect")
async def test_a_process_without_descriptors_says_so(database_server: DatabaseServer) -> None:
    port, metrics = free_port(), free_port()
    env = {
        "ACCEPTED_DATABASE_URL": database_server.url("postgres"),
        "ACCEPTED_METRICS_PORT": str(metrics),
    }
    service = Service("api", "--port", str(port), env=env, forked=False)  # else it has the limits of the fork server
    try:
        with few_descriptors():
            service.start()
        await service.wait_ready(answers(f"http://127.0.0.1:{port}/healthz"))
        soft, hard = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
        await until(lambda: f'"open_files":{soft}' in service.log(), 5, service.log)
        few = psutil.Process(service.pid).num_fds() + 5
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (few, hard))
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]

        async def says_so() -> bool:
            """While clients go on to come: a connection to the ledger that ends leaves a descriptor for one of them."""
            held.append(await asyncio.open_connection("127.0.0.1", port))
            return "no_descriptors_left" in service.log()

        await until(says_so, 30, service.log, interval=0.1)
        for _, writer in held:
            writer.close()
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (hard, hard))
        await until(lambda: "descriptors_again" in service.log(), 30, service.log)
        assert await _counted(metrics) >= 1
    finally:
        service.remove()


@contextlib.contextmanager
def few_descriptors() -> Iterator[None]:
    """Processes that are started meanwhile may open few files, unless they raise that limit themselves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 64, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _counted(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return float(text.partition("\naccepted_descriptors_lacked_total ")[2].partition("\n")[0])
