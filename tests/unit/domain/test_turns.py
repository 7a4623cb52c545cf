"""How tenants share room: max-min fair over slots, by weight, in turns, never past what is left to them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.turns import TenantLoad, Turn, beside_others, in_order, left, offers

LOADS = st.lists(
    st.builds(TenantLoad, tenant=st.uuids().map(str), held=st.integers(0, 30), weight=st.integers(1, 5)),
    min_size=1,
    max_size=6,
    unique_by=lambda load: load.tenant,
)


def served(loads: list[TenantLoad], room: int, waiting: dict[str, int] | None = None) -> Counter[str]:
    """Who gets the room, if everybody has as many jobs as are offered, or so many."""
    offered = {one.tenant: one.size for one in offers(loads, room, [None] * len(loads))}
    line = sorted(
        ((load.held + number) // load.weight, place, load.tenant)
        for place, load in enumerate(loads)
        for number in range(min(offered[load.tenant], (waiting or offered).get(load.tenant, 0)))
    )
    return Counter(tenant for _, _, tenant in line[:room])


@given(LOADS, st.integers(0, 40))
def test_all_the_room_is_offered_and_everybody_a_job(loads: list[TenantLoad], room: int) -> None:
    found = offers(loads, room, [None] * len(loads))
    assert [one.tenant for one in found] == [load.tenant for load in loads]
    assert all(one.size >= 1 for one in found)
    assert sum(one.size for one in found) >= room
    assert served(loads, room).total() == room


@given(LOADS, st.integers(1, 40))
def test_nobody_gets_a_slot_while_another_holds_fewer_for_its_weight(loads: list[TenantLoad], room: int) -> None:
    got = served(loads, room)
    for load in loads:
        if got[load.tenant]:
            last = (load.held + got[load.tenant] - 1) // load.weight
            assert all((other.held + got[other.tenant]) // other.weight >= last for other in loads)


@given(LOADS, st.integers(0, 40), st.data())
def test_no_offer_is_larger_than_what_is_left(loads: list[TenantLoad], room: int, data: st.DataObject) -> None:
    lefts = [data.draw(st.none() | st.integers(0, 5)) for _ in loads]
    found = {one.tenant: one.size for one in offers(loads, room, lefts)}
    for load, most in zip(loads, lefts, strict=True):
        assert (load.tenant in found) == (most != 0)
        assert most is None or found.get(load.tenant, 0) <= most


def test_who_holds_long_jobs_gets_no_more_while_others_wait() -> None:
    flood, a, b = TenantLoad(tenant="flood", held=9), TenantLoad(tenant="a"), TenantLoad(tenant="b", held=1)
    assert served([flood, a, b], 5) == {"a": 3, "b": 2}
    assert served([flood, a, b], 5, {"flood": 99, "a": 1, "b": 0}) == {"flood": 1, "a": 1}


def test_slots_are_shared_in_the_ratio_of_weights() -> None:
    heavy, light = TenantLoad(tenant="heavy", weight=3), TenantLoad(tenant="light")
    assert served([heavy, light], 12) == {"heavy": 9, "light": 3}


def test_equals_take_turns_and_a_turn_is_as_long_as_the_weight() -> None:
    loads = [TenantLoad(tenant="a", weight=2), TenantLoad(tenant="b")]
    turn, got = Turn(), []
    for _ in range(7):
        after = [load for load in loads if turn.tenant is not None and load.tenant > turn.tenant]
        ring = in_order(after + [load for load in loads if load not in after], turn)
        got.append(ring[0].tenant)
        turn = turn.after([ring[0].tenant], ring[0].weight)
    assert "".join(got) == "aabaaba"


def test_a_turn_that_is_over_begins_again() -> None:
    assert Turn("a", 1).after(["a"], 1) == Turn("a", 1), "a single tenant changes nothing"
    assert Turn("a", 1).after(["a", "a"], 5) == Turn("a", 3)
    assert Turn("a", 1).after(["b", "a"], 5) == Turn("a", 1)
    assert Turn("a", 1).after(["a", "b", "b"], 5) == Turn("b", 2)


def test_no_tenant_takes_the_last_slots() -> None:
    assert [beside_others(slots) for slots in (0, 1, 2, 3, 8, 16, 20, 200)] == [0, 1, 1, 2, 7, 14, 18, 175]


def test_what_is_left_to_a_tenant() -> None:
    load = TenantLoad(tenant="a", here=3, held=5, everywhere=8)
    assert left(load, None, None) is None, "nobody else uses the queue"
    assert left(load, 16, None) == 9
    assert left(load, 16, 5) == 1, "the queue runs no more than 5"
    assert left(load, 4, None) == 0
    capped = TenantLoad(tenant="a", here=3, held=5, everywhere=8, most=10)
    assert left(capped, 4, None) == 2, "its own limit takes the place of the reserve"
    assert left(TenantLoad(tenant="a", everywhere=12, most=10), None, None) == 0
