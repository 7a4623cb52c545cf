"""The service as real processes that answer HTTP, its keys, and `accepted …` commands run to their end."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from tests.support.clients.client import Client
from tests.support.servers.ports import free_port
from tests.support.service import fork_server
from tests.support.service.processes import ACCEPTED, Service, answers, clean_environment
from tests.support.waiting import until

ENDS_WITHIN = 80.0  # seconds, for a command
BOOT_WITHIN = 90.0  # seconds: several processes start at once on two noisy cores


@dataclass(frozen=True)
class Running:
    """A service that answers; `env` is what `accepted …` needs to reach the same ledger and the API."""

    url: str
    env: Mapping[str, str]
    services: Mapping[str, Service]

    def client(self, key: str = "") -> Client:
        return Client(self.url, key)


running_services: list[Running] = []


@asynccontextmanager
async def serving(
    database_url: str, env: Mapping[str, str], *, dev: bool = False, more: Sequence[str] = (), slots: int = 20
) -> AsyncIterator[Running]:
    """The three processes, or `accepted dev` with `more` options, with the API ready. `slots` are the worker's."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    ledger = {"ACCEPTED_DATABASE_URL": database_url} if database_url else {}
    env = {**ledger, "ACCEPTED_EGRESS_ALLOW": "127.0.0.0/8", "ACCEPTED_URL": url, **env}
    commands = {
        "dev": ["dev", "--port", str(port), "--concurrency", str(slots), *more],
        "api": ["api", "--port", str(port)],
        "worker": ["worker", "--concurrency", str(slots)],
        "scheduler": ["scheduler"],
    }
    wanted = ["dev"] if dev else ["api", "worker", "scheduler"]
    services = {name: Service(*commands[name], env=env) for name in wanted}
    running = Running(url, env, services)
    running_services.append(running)
    try:
        for service in services.values():
            service.start()
        await services[wanted[0]].wait_ready(answers(f"{url}/readyz"), BOOT_WITHIN)
        yield running
    finally:
        running_services.remove(running)
        for service in services.values():
            service.remove()


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


async def accepted(*arguments: str, env: Mapping[str, str], cwd: str | None = None, stdin: str = "") -> Done:
    """`accepted …` run to its end, while others may run too."""
    command = [str(ACCEPTED), *arguments]
    if not fork_server.serves(arguments, env):
        return await run_to_end(command, env, cwd, stdin)
    whole = clean_environment() | dict(env)
    return Done(
        *await asyncio.to_thread(fork_server.run, command, whole, cwd or tempfile.gettempdir(), stdin, ENDS_WITHIN)
    )


async def run_to_end(command: list[str], env: Mapping[str, str], cwd: str | None = None, stdin: str = "") -> Done:
    call = partial(
        subprocess.run,
        command,
        env=clean_environment() | dict(env),
        cwd=cwd or tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN,
        input=stdin,
    )
    done = await asyncio.to_thread(call)
    return Done(done.returncode, done.stdout, done.stderr)


ALL_OF = """
import json, sys
from accepted.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
"""


async def make_keys(env: Mapping[str, str], *wanted: tuple[str, str]) -> list[str]:
    """A key by `accepted keys create` for each (tenant, scopes); in one process, for starting takes seconds."""
    commands = [
        ["keys", "create", "--tenant", tenant, "--name", "tests", "--scopes", scopes] for tenant, scopes in wanted
    ]
    done = await run_to_end([sys.executable, "-c", ALL_OF, json.dumps(commands)], env)
    assert done.code == 0, done
    return done.out.split()


async def types_known(client: Client) -> None:
    """Wait until a worker has registered its types: before that, every submission is refused."""

    async def known() -> bool:
        return any(each["name"] == "noop" for each in (await client.get("/job-types")).json()["items"])

    await until(known, BOOT_WITHIN, "the worker's types", interval=0.1)
