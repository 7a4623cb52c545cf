"""What the benchmark knows of a peer: the commands by which it is started, and how its ended jobs are counted.

A job counts as ended when its handler has run: `apps/counting.py` notes it. `recorded.py` is stricter with those that
keep their jobs in PostgreSQL, Accepted among them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.peers import counts
from tests.benchmarks.peers.counts import Ended
from tests.benchmarks.peers.servers import Place
from tests.support.service.processes import Service

HOME = Path(os.environ.get("PEERS_HOME", ".bench-peers")).resolve()
"""Where install.sh has put the peers."""

APPS = Path(__file__).with_name("apps")

PREPARED_WITHIN = 120.0  # seconds


@dataclass(frozen=True)
class Peer:
    """A row of the table. Commands begin with a program of the peer's environment; `{port}` is the API's port."""

    title: str
    uses: tuple[str, ...]
    """The kinds of servers."""

    api: str
    worker: str
    workers: int = 1
    """So many of that command; many of them start several processes each."""

    prepare: str = ""
    """Run once, before the API starts."""

    share: float = 1.0
    """Of the jobs that the others get: less for those that take a minute for all."""

    def api_on(self, port: int, place: Place) -> Service:
        return self._service(self.api.format(port=port), place)

    def started_worker(self, place: Place) -> Service:
        return self._service(self.worker, place).start()

    async def prepared(self, place: Place) -> None:
        """Make what it needs on its servers."""
        if self.prepare:
            service = self._service(self.prepare, place).start()
            try:
                assert await service.wait_exit(PREPARED_WITHIN) == 0, service.log()
            finally:
                service.remove()

    def beside(self, place: Place) -> list[Service]:
        """What else runs in production."""
        return []

    async def until_submitted(self, place: Place) -> None:
        """Until every job that was answered with 202 is where workers take it from."""

    async def ended(self, place: Place) -> Ended:
        return counts.read(place.counts)

    def _service(self, command: str, place: Place) -> Service:
        program, *words = command.split()
        node = program == "node"
        return Service(
            *words,
            name=command,
            program=Path(program) if node else HOME / "python" / "bin" / program,
            directory=APPS,
            env={
                **{f"PEER_{kind.upper()}_URL": url for kind, url in place.urls.items()},
                "PEER_COUNTS": str(place.counts),
                "PYTHONPATH": str(APPS),
                "NODE_PATH": str(HOME / "node" / "node_modules"),
            },
        )
