"""The service's processes on one of the databases of a run."""

from contextlib import AsyncExitStack

from tests.support.servers.ports import free_port
from tests.support.service.processes import Service, answers, logged


def environment(url: str) -> dict[str, str]:
    """That ledger is also the broker."""
    return {"ACCEPTED_DATABASE_URL": url, "ACCEPTED_BROKER_URL": "postgres", "ACCEPTED_AUTH": "off"}


def started(stack: AsyncExitStack, url: str, *arguments: str) -> Service:
    """`accepted …`, killed with `stack`; an argument NAME=value is a setting."""
    settings = dict(one.split("=", 1) for one in arguments if one.startswith("ACCEPTED_"))
    words = [one for one in arguments if not one.startswith("ACCEPTED_")]
    service = Service(*words, env=environment(url) | settings).start()
    stack.callback(service.remove)
    return service


async def api(stack: AsyncExitStack, url: str) -> int:
    """An API process that is ready; its port."""
    port = free_port()
    service = started(stack, url, "api", f"--port={port}")
    await service.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"))
    return port


async def scheduler(stack: AsyncExitStack, url: str, *settings: str) -> None:
    """A scheduler that is ready."""
    await started(stack, url, "scheduler", *settings).wait_ready(logged("scheduler_ready"))
