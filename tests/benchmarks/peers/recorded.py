"""Peers that keep their jobs in PostgreSQL: there a job has ended when its outcome is recorded.

The clock runs from the first claim to the last outcome. What handlers note would count too much where a peer runs many
jobs and records them together.
"""

from dataclasses import dataclass

from tests.benchmarks.peers.counts import Ended
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.servers import Place
from tests.support.servers.postgres import connect


@dataclass(frozen=True)
class Recorded(Peer):
    unfinished: str = ""
    """A query that is true while jobs wait or run."""

    span: str = ""
    """A query of how many have ended, and the times of the first claim and the last outcome."""

    async def ended(self, place: Place) -> Ended:
        """None until all have, because a count of them would be work for the server that is measured."""
        conn = await connect(place.urls["postgres"])
        try:
            if await conn.fetchval(self.unfinished):
                return Ended()
            jobs, first, last = await conn.fetchrow(self.span)
            return Ended(jobs, first.timestamp(), last.timestamp()) if jobs else Ended()
        finally:
            await conn.close()
