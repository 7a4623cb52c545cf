"""Graphs of workflows: what is refused and where, and an order in which each job comes after all that it needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.batch import MAX_EDGES, Flaw, Node, flaws, in_order


def graph(**needs: str) -> list[Node]:
    return [Node(ref, tuple(wanted)) for ref, wanted in needs.items()]


@pytest.mark.parametrize(
    ("nodes", "pointer", "says"),
    [
        ([Node("a"), Node("b"), Node("a")], "/2/ref", "is the ref of number 0 too"),
        (graph(a="", b="ax"), "/1/depends_on/1", "is the ref of no job in this workflow"),
        ([Node("extract"), Node("load", ("extrct",))], "/1/depends_on/0", 'did you mean "extract"?'),
        (graph(a="a"), "/0/depends_on/0", "a cycle: a needs a"),
        (graph(a="", b="ad", c="b", d="c"), "/1/depends_on/1", "a cycle: b needs d needs c needs b"),
        (graph(x="b", b="c", c="b"), "/1/depends_on/0", "a cycle: b needs c needs b"),
        ([Node(str(n), (str((n + 1) % 50),)) for n in range(50)], "/0/depends_on/0", "needs 9 needs … (50 jobs)"),
    ],
)
def test_what_is_refused(nodes: list[Node], pointer: str, says: str) -> None:
    (flaw,) = flaws(nodes, 10)
    assert flaw.pointer == pointer
    assert says in flaw.detail


def test_flaws_are_listed_up_to_a_limit() -> None:
    nodes = [Node("a", tuple(f"x{n}" for n in range(50))) for _ in range(3)]
    assert len(flaws(nodes, 7)) == 7
    too_many = [Node(str(n), tuple(map(str, range(1000)))) for n in range(MAX_EDGES // 1000 + 1)]
    assert flaws(too_many, 7) == [Flaw("", f"more than {MAX_EDGES} dependencies in all")]


@given(st.data())
def test_each_job_comes_after_what_it_needs(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    hidden = data.draw(st.permutations(range(count)))
    needs = [data.draw(st.sets(st.sampled_from(hidden[:at]), max_size=3)) if at else set() for at in range(count)]
    by_number = {hidden[at]: needs[at] for at in range(count)}
    nodes = [Node(str(n), tuple(map(str, by_number[n]))) for n in range(count)]
    assert flaws(nodes, 10) == []
    order = in_order(nodes)
    assert sorted(order) == list(range(count))
    assert all(order.index(need) < order.index(n) for n in range(count) for need in by_number[n])


def test_jobs_without_dependencies_keep_their_order() -> None:
    assert in_order(graph(a="", b="", c="")) == [0, 1, 2]


def test_a_cycle_of_ten_thousand_is_found() -> None:
    nodes = [Node(str(n), (str((n + 1) % 10_000),)) for n in range(10_000)]
    assert "(10000 jobs)" in flaws(nodes, 10)[0].detail
