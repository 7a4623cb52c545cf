"""The longest chain of a workflow by time, and where it is drawn."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accepted.dashboard.graph import MOST, graph, longest_chain, run_times

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def jobs(**needs: str) -> list[dict[str, Any]]:
    """Jobs by ref, each with the refs that it depends on."""
    return [{"ref": ref, "id": ref, "status": "x", "depends_on": list(of)} for ref, of in needs.items()]


DIAMOND = jobs(a="", b="a", c="a", d="bc")


@pytest.mark.parametrize(
    ("ran", "refs", "seconds"),
    [
        ({"a": 1, "b": 9, "c": 30, "d": 10}, "acd", 41),
        ({"a": 1, "b": 31, "c": 30, "d": 10}, "abd", 42),
        ({"a": 1, "b": 9}, "ab", 10),
        ({"a": 1}, "a", 1),
        ({"c": 30, "d": 10}, "cd", 40),
    ],
)
def test_the_chain_that_has_run_longest(ran: dict[str, float], refs: str, seconds: float) -> None:
    """It ends with a job that has run: those that wait for it are not in it yet."""
    chain = longest_chain(DIAMOND, ran)
    assert chain is not None
    assert ("".join(chain.refs), chain.seconds) == (refs, seconds)
    drawn = graph(DIAMOND, chain, ran)
    assert drawn is not None
    assert "".join(one.job["ref"] for one in drawn.jobs if one.critical) == refs
    assert sum(one.critical for one in drawn.arrows) == len(refs) - 1


def test_nothing_has_run() -> None:
    assert longest_chain(DIAMOND, {}) is None
    assert longest_chain([], {}) is None
    drawn = graph(DIAMOND, None, {})
    assert drawn is not None
    assert not any(one.critical for one in (*drawn.jobs, *drawn.arrows))


def test_a_long_chain_is_named_by_its_ends() -> None:
    refs = [f"step-{n}" for n in range(MOST)]
    line = [{"ref": ref, "depends_on": refs[n - 1 : n] if n else []} for n, ref in enumerate(refs)]
    chain = longest_chain(line, dict.fromkeys(refs, 2.0))
    assert chain is not None
    assert chain.sentence(3600) == (
        "The longest chain is step-0 → step-1 → step-2 → 294 more → step-297 → step-298 → step-299: 10 min of 60 min."
    )


def test_running_jobs_count_until_now() -> None:
    def job(id: str, status: str, started: int | None, finished: int | None) -> dict[str, Any]:
        times = [None if ago is None else (NOW - timedelta(seconds=ago)).isoformat() for ago in (started, finished)]
        return {"id": id, "status": status, "started_at": times[0], "finished_at": times[1]}

    listed = [
        job("1", "succeeded", 60, 40), job("2", "running", 15, None), job("3", "retrying", 15, None),
        job("4", "blocked", None, None), job("5", "cancelled", None, 3), job("of another", "running", 15, None),
    ]  # fmt: skip
    assert run_times(listed, {str(n): f"ref-{n}" for n in range(9)}, NOW) == {"ref-1": 20.0, "ref-2": 15.0}
