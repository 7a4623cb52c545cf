"""A batch of jobs, and the graph of a workflow, which is a batch whose jobs depend on each other.

Pure values. `to_wire` is the JSON of contract section 4 in the 202, in GET and in the webhook. Errors in a graph are
values with a place in the body.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from accepted.domain.job import NewJob
from accepted.errors import Hints

OnFailure: TypeAlias = Literal["continue", "cancel"]

FINISHED_EVENT = "batch.finished"

MAX_EDGES = 100_000
"""Dependencies of one workflow. The end of a job follows all of its edges in one statement."""

MAX_NAMED = 10
"""Refs of a cycle that an error names."""

COMPARED = 200
"""In larger workflows no nearest ref is suggested: each comparison takes a fraction of a millisecond."""


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A checked batch, ready to be inserted, with `total` members."""

    id: UUID
    tenant: str
    total: int
    workflow: bool = False
    on_failure: OnFailure = "continue"
    callback_url: str | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A stored batch. `counts` has the statuses that occur."""

    id: UUID
    tenant: str
    workflow: bool
    total: int
    counts: Mapping[str, int]
    created_at: datetime
    finished_at: datetime | None = None


class Spread(msgspec.Struct, frozen=True):
    """When the members of a batch run: number i of n at `start` (None: now) plus i/n of `window` seconds."""

    start: datetime | None = None
    window: float = 0.0

    def placed(self, job: NewJob, number: int, total: int) -> NewJob:
        """`job` with the run time of number `number`, from 0, of `total`."""
        after = self.window * number / total
        if self.start is not None:
            return msgspec.structs.replace(job, run_at=self.start + timedelta(seconds=after))
        return msgspec.structs.replace(job, delay=after) if self.window else job


class Node(msgspec.Struct, frozen=True):
    """A job by its ref, and the refs of the jobs that must succeed first, each once."""

    ref: str
    depends_on: tuple[str, ...] = ()


class Flaw(msgspec.Struct, frozen=True):
    """An error in the graph. `pointer` is relative to the array of jobs, such as `/3/depends_on/0`."""

    pointer: str
    detail: str


def to_wire(batch: Batch) -> dict[str, Any]:
    """The JSON of contract section 4."""
    return {
        "id": batch.id,
        "total": batch.total,
        "counts": dict(batch.counts),
        "finished": batch.finished_at is not None,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
    }


def flaws(nodes: Sequence[Node], limit: int) -> list[Flaw]:
    """The first `limit` errors in the graph. Cycles are checked once all refs are right."""
    if sum(len(node.depends_on) for node in nodes) > MAX_EDGES:
        return [Flaw("", f"more than {MAX_EDGES} dependencies in all")]
    places: dict[str, int] = {}
    for number, node in enumerate(nodes):
        places.setdefault(node.ref, number)
    found = [*_doubled(nodes, places), *_unknown(nodes, places, limit)][:limit]
    return found or _cyclic(nodes, places)


def in_order(nodes: Sequence[Node]) -> list[int]:
    """Positions of the nodes, each after all that it needs, else in the given order.

    Nodes on a cycle, or behind one, are left out.
    """
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
    hints = Hints()
    for number, node in enumerate(nodes):
        for position, ref in enumerate(node.depends_on):
            if ref not in places and limit > 0:
                limit -= 1
                hint = hints.about(ref, places) if len(places) <= COMPARED else ""
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
    """`walk` goes from each job to one that it needs; the last needs the first."""
    named = [nodes[number].ref for number in (*walk, walk[0])]
    if len(named) > MAX_NAMED:
        named = [*named[:MAX_NAMED], f"… ({len(walk)} jobs)"]
    position = list(nodes[walk[0]].depends_on).index(nodes[walk[1 % len(walk)]].ref)
    return Flaw(f"/{walk[0]}/depends_on/{position}", f"a cycle: {' needs '.join(named)}")
