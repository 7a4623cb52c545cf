"""Who is served next on a limited queue: its tenants take turns, each within its share (docs/waiting.md)."""

from collections.abc import Sequence

import msgspec

from accepted.domain import turns as rules
from accepted.domain.references import JobRef
from accepted.domain.turns import TenantLoad, Turn
from accepted.storage import admission, turns
from accepted.storage.admission import Admitted
from accepted.storage.db.statements import Connection
from accepted.storage.limiter import LockedQueue
from accepted.storage.room import Room


class Served(msgspec.Struct, frozen=True):
    """What was admitted, and the turn after it. `possible` is how many jobs the tenants that wait could have had.

    `overlooked`: another limiter was about to admit jobs of a tenant that has a `max_running` over all queues. `more`:
    jobs may wait behind some of types without a free slot.
    """

    refs: list[JobRef]
    turn: Turn
    possible: int
    overlooked: bool = False
    more: bool = False


class TenantsInLine(msgspec.Struct, frozen=True):
    """The tenants that wait, in the order of their turns, and the `slots` of the queue's worker processes."""

    loads: list[TenantLoad]
    slots: int | None
    overlooked: bool = False


async def serve(
    conn: Connection, queue: str, limit: int, locked: LockedQueue, room: Room, hold: float | None, lease_ttl: float
) -> Served:
    """Admit any rows for the slots of worker processes, then rows that waiting lease requests can take: `limit` in all.

    The caller commits, and publishes the rows within `hold` seconds; None: the commit publishes them.
    """
    found = await _waiting(conn, queue, locked, room, lease_ttl)
    most = None if found.slots is None else locked.max_running
    lefts = [rules.left(load, found.slots, most) for load in found.loads]
    served = Admitted([], [], {})
    if (slots := min(limit, room.for_any)) > 0:
        offers = rules.offers(found.loads, slots, lefts)
        served = await admission.admit(conn, queue, slots, locked, room, offers, hold) if offers else served
    if (leases := min(limit - len(served.refs), room.for_wanted)) > 0:
        loads = [_served(load, served) for load in found.loads if load.leases]
        offers = rules.offers(loads, leases, [rules.left(load, None, None) for load in loads])
        if offers:
            then = await admission.admit_wanted(conn, queue, leases, locked, room, offers, hold, lease_ttl)
            served = _both(served, then)
        lefts = [None]
    if served.last_keys != {load.tenant: load.last_key for load in found.loads if load.tenant in served.last_keys}:
        await turns.pass_on(conn, queue, served.last_keys)
    return Served(
        served.refs, _turn(locked, found.loads, served), _possible(limit, lefts), found.overlooked, served.set_aside
    )


async def _waiting(conn: Connection, queue: str, locked: LockedQueue, room: Room, lease_ttl: float) -> TenantsInLine:
    """A queue of one tenant costs no statement: the tenant takes all the room."""
    if locked.first is None:
        return TenantsInLine([], None)
    if not (locked.shared or locked.capped):
        here = room.admitted + (room.run or 0) if locked.keyed else 0
        return TenantsInLine([TenantLoad(tenant=locked.first, here=here, last_key=locked.last_key)], None)
    free = await turns.lock_capped(conn, queue) if locked.capped else set()
    loads, slots = await turns.waiting(conn, queue, locked.turn.tenant, lease_ttl)
    mine = [load for load in loads if load.most is None or load.tenant in free]
    return TenantsInLine(rules.in_order(mine, locked.turn), slots if locked.shared else None, len(mine) < len(loads))


def _served(load: TenantLoad, served: Admitted) -> TenantLoad:
    """The load of a tenant, with what was just admitted."""
    more = served.tenants.count(load.tenant)
    return msgspec.structs.replace(
        load, here=load.here + more, held=load.held + more, everywhere=load.everywhere + more,
        last_key=served.last_keys.get(load.tenant, load.last_key),
    )  # fmt: skip


def _both(first: Admitted, then: Admitted) -> Admitted:
    return Admitted(
        [*first.refs, *then.refs], [*first.tenants, *then.tenants], {**first.last_keys, **then.last_keys},
        set_aside=first.set_aside,
    )  # fmt: skip


def _turn(locked: LockedQueue, loads: Sequence[TenantLoad], served: Admitted) -> Turn:
    """If none of as many tenants as one round looks at could start a job, the next round looks at those behind them."""
    if served.tenants:
        weights = {load.tenant: load.weight for load in loads}
        return locked.turn.after(served.tenants, weights[served.tenants[-1]])
    return Turn(loads[-1].tenant, loads[-1].weight) if len(loads) == turns.MOST else locked.turn


def _possible(limit: int, lefts: Sequence[int | None]) -> int:
    known = [left for left in lefts if left is not None]
    return limit if len(known) < len(lefts) else min(limit, sum(known))
