"""What bounds the cost of compiled schemas: memory, which owners share, and turns to compile."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.job import JobType
from accepted.domain.retry import Retry
from accepted.services.job_types.bounds import CompiledTypes, CompileTurns, KeptType
from accepted.services.job_types.compiled import compile_type
from accepted.services.job_types.payload_schema import PayloadValidator


def kept(size: int, version: str = "1") -> KeptType:
    """A type whose schema has about `size` bytes."""
    schema = '{"description": "' + "x" * size + '"}'
    one = JobType(name="t", description="", queue="q", retry=Retry(), timeout=None, payload_schema=schema)
    return KeptType(compile_type(one, {}), version)


LIMIT = 20 * kept(100).bytes


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12345"), st.sampled_from([1, 300, 900]))))
def test_it_never_has_more_than_its_limit(puts: list[tuple[str, str, int]]) -> None:
    types = CompiledTypes(LIMIT)
    for owner, name, size in puts:
        types.put(owner, name, kept(size))
        assert types.bytes <= LIMIT
    found = [types.get(owner, name) for owner in "abc" for name in "12345"]
    assert types.bytes == sum(one.bytes for one in found if one is not None)


def test_who_has_the_most_loses_what_it_has_not_used_for_longest() -> None:
    types = CompiledTypes(LIMIT)
    types.put("small", "only", kept(100))
    for number in range(40):
        assert types.get("large", "first") is not None or number == 0
        types.put("large", "first" if number == 0 else str(number), kept(100))
    assert types.get("small", "only") is not None
    assert types.get("large", "39") is not None
    assert types.get("large", "2") is None


def test_patterns_count_by_their_compiled_size() -> None:
    few = PayloadValidator({"pattern": "a"}, {}, of_client=True)
    many = PayloadValidator({"properties": {str(n): {"pattern": f"(a|b){{{n}}}"} for n in range(500, 600)}}, {},
                            of_client=True)  # fmt: skip
    assert many.pattern_bytes > 100 * few.pattern_bytes > 0


async def test_owners_take_turns() -> None:
    turns, began = CompileTurns(), list[str]()
    await asyncio.gather(*(turns.run(owner, began.append, owner) for owner in ("a", "a", "a", "b")))
    assert began == ["a", "b", "a", "a"]


async def test_an_error_is_its_callers_and_ends_the_turn() -> None:
    turns = CompileTurns()
    with pytest.raises(ValueError, match="invalid literal"):
        await turns.run("a", int, "x")
    assert await turns.run("a", int, "7") == 7
