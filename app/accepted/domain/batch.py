"""A batch: a name on many jobs, what is to happen when one of them fails, and what they have come to.

Pure values. `to_wire` is the JSON of contract section 4, used alike by the 202, by GET and inside the webhook.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from accepted.domain.job import NewJob
from accepted.domain.text import did_you_mean

OnFailure: TypeAlias = Literal["continue", "cancel"]

FINISHED_EVENT = "batch.finished"

MAX_EDGES = 100_000
"""Of one workflow. The end of a member follows every edge behind it in one statement."""

MAX_NAMED = 10
"""Refs of a cycle that are named; the first of them are enough to find it."""


COMPARED = 200
"""Refs among which the nearest is looked for: it takes a fraction of a millisecond each."""


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that was checked and is to be inserted. `total` is how many members it has."""

    id: UUID
    tenant: str
    total: int
    workflow: bool = False
    on_failure: OnFailure = "continue"
    callback_url: str | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the ledger holds it. `counts` is by status, and holds no zeros."""

    id: UUID
    tenant: str
    workflow: bool
    total: int
    counts: Mapping[str, int]
    created_at: datetime
    finished_at: datetime | None = None


class Spread(msgspec.Struct, frozen=True):
    """When the members of a batch run: number i of n at `start` plus i/n of `window` seconds; no start is now."""

    start: datetime | None = None
    window: float = 0.0

    def placed(self, job: NewJob, number: int, total: int) -> NewJob:
        """`job` as number `number`, from 0, of `total`."""
        after = self.window * number / total
        if self.start is not None:
            return msgspec.structs.replace(job, run_at=self.start + timedelta(seconds=after))
        return msgspec.structs.replace(job, delay=after) if self.window else job


class Node(msgspec.Struct, frozen=True):
    """A job: its name, and the names of those whose success it waits for, each once."""

    ref: str
    depends_on: tuple[str, ...] = ()


class Flaw(msgspec.Struct, frozen=True):
    """What is wrong, and where below the array of jobs, such as `/3/depends_on/0`."""

    pointer: str
    detail: str


def to_wire(batch: Batch) -> dict[str, Any]:
    """The batch of contract section 4."""
    return {
        "id": batch.id,
        "total": batch.total,
        "counts": dict(batch.counts),
        "finished": batch.finished_at is not None,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
    }


def flaws(nodes: Sequence[Node], limit: int) -> list[Flaw]:
    """What keeps jobs from being a workflow, up to `limit` of it. Cycles are looked for when all refs are right."""
    if sum(len(node.depends_on) for node in nodes) > MAX_EDGES:
        return [Flaw("", f"more than {MAX_EDGES} dependencies in all")]
    places: dict[str, int] = {}
    for number, node in enumerate(nodes):
        places.setdefault(node.ref, number)
    found = [*_doubled(nodes, places), *_unknown(nodes, places, limit)][:limit]
    return found or _cyclic(nodes, places)


def in_order(nodes: Sequence[Node]) -> list[int]:
    """The places of these jobs, each after all that it needs, else as given. Those on or behind a cycle are missing."""
    places = {node.ref: number for number, node in enumerate(nodes)}
    behind: dict[int, list[int]] = defaultdict(list)
    unmet = [len(node.depends_on) for node in nodes]
    for number, node in enumerate(nodes):
        for ref in node.depends_on:
            behind[places[ref]].append(number)
    ready = [number for number, count in enumerate(unmet) if count == 0]
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for other in behind[number]:
            unmet[other] -= 1
            if unmet[other] == 0:
                heapq.heappush(ready, other)
    return order


def _doubled(nodes: Sequence[Node], places: Mapping[str, int]) -> Iterable[Flaw]:
    for number, node in enumerate(nodes):
        if places[node.ref] != number:
            yield Flaw(f"/{number}/ref", f"is the ref of number {places[node.ref]} too")


def _unknown(nodes: Sequence[Node], places: Mapping[str, int], limit: int) -> Iterable[Flaw]:
    for number, node in enumerate(nodes):
        for position, ref in enumerate(node.depends_on):
            if ref not in places and limit > 0:
                limit -= 1
                hint = did_you_mean(ref, places) if len(places) <= COMPARED else ""
                yield Flaw(f"/{number}/depends_on/{position}", f"is the ref of no job in this workflow{hint}")


def _cyclic(nodes: Sequence[Node], places: Mapping[str, int]) -> list[Flaw]:
    left = set(range(len(nodes))) - set(in_order(nodes))
    if not left:
        return []
    walk, seen = [min(left)], {min(left): 0}
    while True:
        need = next(places[ref] for ref in nodes[walk[-1]].depends_on if places[ref] in left)
        if need in seen:
            return [_cycle(nodes, walk[seen[need] :])]
        seen[need] = len(walk)
        walk.append(need)


def _cycle(nodes: Sequence[Node], walk: Sequence[int]) -> Flaw:
    """`walk` goes from each job to one that it needs, and from the last to the first."""
    named = [nodes[number].ref for number in (*walk, walk[0])]
    if len(named) > MAX_NAMED:
        named = [*named[:MAX_NAMED], f"… ({len(walk)} jobs)"]
    position = list(nodes[walk[0]].depends_on).index(nodes[walk[1 % len(walk)]].ref)
    return Flaw(f"/{walk[0]}/depends_on/{position}", f"a cycle: {' needs '.join(named)}")
