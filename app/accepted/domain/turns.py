"""How the tenants of a queue share its room: max-min fair over the slots that they hold, in the ratio of their weights.

The next free slot is for the tenant that holds the fewest, so a tenant with long jobs keeps its share of the slots and
gets no more while others wait. Among equals they take turns. No tenant takes the last slots of a queue that others use:
what is to start soon cannot wait for the end of a long job.
"""

import heapq
from collections.abc import Sequence

import msgspec

RESERVED = 8
"""One slot in so many, and at least one, is never held by one tenant alone, unless the tenant has a `max_running`."""


class TenantLoad(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant with jobs that wait on a queue.

    Of its jobs, `here` run or are admitted on the queue; `held` are those, of whatever queue, on slots of the queue's
    worker processes; `everywhere` are those on all queues. `most` of them may run on all queues (None: no limit).
    `last_key` is the concurrency key that was served last. `leases`: a lease request of the tenant may wait.
    """

    tenant: str
    here: int = 0
    held: int = 0
    everywhere: int = 0
    weight: int = 1
    most: int | None = None
    last_key: str | None = None
    leases: bool = True


class Offer(msgspec.Struct, frozen=True):
    """Up to `size` jobs of a tenant that are considered for the room; so many of its jobs hold slots, run here."""

    tenant: str
    size: int
    held: int = 0
    here: int = 0
    weight: int = 1
    last_key: str | None = None


class Turn(msgspec.Struct, frozen=True):
    """The tenant that was served last, and how many jobs it has had in this turn."""

    tenant: str | None = None
    taken: int = 0

    def after(self, served: Sequence[str], weight: int) -> "Turn":
        """The turn once jobs of these tenants were admitted, in this order; `weight` is that of the last."""
        last = served[-1]
        run = next((number for number, tenant in enumerate(reversed(served)) if tenant != last), len(served))
        goes_on = run == len(served) and self.tenant == last and self.taken < weight
        return Turn(last, min(run + (self.taken if goes_on else 0), weight))


def beside_others(slots: int) -> int:
    """How many of `slots` one tenant may hold on a queue that others use, too."""
    return slots if slots < 2 else slots - max(1, slots // RESERVED)


def left(load: TenantLoad, slots: int | None, max_running: int | None) -> int | None:
    """How many more jobs of the tenant may be admitted; None: any number.

    `slots` are those of the worker processes of a queue that several tenants use, `max_running` is its limit; None: it
    holds nobody back.
    """
    if load.most is not None:
        return max(load.most - load.everywhere, 0)
    bounds = [] if slots is None else [beside_others(slots) - load.held]
    if max_running is not None:
        bounds.append(beside_others(max_running) - load.here)
    return max(min(bounds), 0) if bounds else None


def in_order(loads: Sequence[TenantLoad], turn: Turn) -> list[TenantLoad]:
    """`loads`, which begin after the tenant of this turn, with that tenant in front while its turn lasts: a turn has as
    many jobs as the tenant's weight."""
    staying = [load for load in loads if load.tenant == turn.tenant and turn.taken < load.weight]
    return staying + [load for load in loads if load not in staying]


def offers(loads: Sequence[TenantLoad], room: int, lefts: Sequence[int | None]) -> list[Offer]:
    """Share out `room` among the tenants, in the order of their turns, of whom so many jobs are `left` to admit.

    It is not known how many jobs wait. So each tenant that may start a job is offered one, whatever the others are.
    """
    sizes = [0] * len(loads)
    line = [(_turn(load, 0), place) for place, load in enumerate(loads) if lefts[place] != 0]
    may = [place for _, place in line]
    heapq.heapify(line)
    for _ in range(room):
        if not line:
            break
        _, place = heapq.heappop(line)
        sizes[place] += 1
        if sizes[place] != lefts[place]:
            heapq.heappush(line, (_turn(loads[place], sizes[place]), place))
    return [_offer(loads[place], max(sizes[place], 1)) for place in may]


def _turn(load: TenantLoad, more: int) -> int:
    """In which round over the tenants its next job comes, with so many more than it holds now."""
    return (load.held + more) // load.weight


def _offer(load: TenantLoad, size: int) -> Offer:
    return Offer(load.tenant, size, load.held, load.here, load.weight, load.last_key)
