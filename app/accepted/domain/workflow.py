"""The graph of a workflow: which job needs which, by ref. Pure; errors are values with a place in the body."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from accepted.domain.nearest import did_you_mean

MOST_EDGES = 100_000
"""Of one workflow. The end of a member follows every edge behind it in one statement."""

MOST_NAMED = 10
"""Refs of a cycle that are named; the first of them are enough to find it."""


COMPARED = 200
"""Refs among which the nearest is looked for: it takes a fraction of a millisecond each."""


class Node(msgspec.Struct, frozen=True):
    """A job: its name, and the names of those whose success it waits for, each once."""

    ref: str
    depends_on: tuple[str, ...] = ()


class Flaw(msgspec.Struct, frozen=True):
    """What is wrong, and where below the array of jobs, such as `/3/depends_on/0`."""

    pointer: str
    detail: str


def flaws(nodes: Sequence[Node], most: int) -> list[Flaw]:
    """What keeps jobs from being a workflow, up to `most` of it. Cycles are looked for when all refs are right."""
    if sum(len(node.depends_on) for node in nodes) > MOST_EDGES:
        return [Flaw("", f"more than {MOST_EDGES} dependencies in all")]
    places: dict[str, int] = {}
    for number, node in enumerate(nodes):
        places.setdefault(node.ref, number)
    found = [*_doubled(nodes, places), *_unknown(nodes, places, most)][:most]
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


def _unknown(nodes: Sequence[Node], places: Mapping[str, int], most: int) -> Iterable[Flaw]:
    for number, node in enumerate(nodes):
        for position, ref in enumerate(node.depends_on):
            if ref not in places and most > 0:
                most -= 1
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
    if len(named) > MOST_NAMED:
        named = [*named[:MOST_NAMED], f"… ({len(walk)} jobs)"]
    position = list(nodes[walk[0]].depends_on).index(nodes[walk[1 % len(walk)]].ref)
    return Flaw(f"/{walk[0]}/depends_on/{position}", f"a cycle: {' needs '.join(named)}")
