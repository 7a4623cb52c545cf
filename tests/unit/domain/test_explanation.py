"""Why a due job is not published: who is away, by when the job became due and when a relay took it last. And what its
tenant may have of the slots."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from accepted.domain.explanation import explain, may_hang_on_broker, unpublished
from accepted.domain.ids import new_id
from accepted.domain.snapshot import DeferredTarget, JobSnapshot, Load, QueueLimits, QueuePosition, WorkerCapacity

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def job(due_since: float, due_at: float, **fields: Any) -> JobSnapshot:
    """A job on a queue with free slots; seconds from now."""
    moment = {"run_at": NOW + timedelta(seconds=due_since), "due_since": NOW + timedelta(seconds=due_since)}
    given = {
        "id": new_id(), "now": NOW, "status": "queued", "type": "noop", "queue": "q", "attempt": 0, "max_attempts": 3,
        "due_at": NOW + timedelta(seconds=due_at), "capacity": WorkerCapacity(1, 1, 10, 0), **moment,
    }  # fmt: skip
    return JobSnapshot(**(given | fields))


@pytest.mark.parametrize(
    ("due_since", "due_at", "broker", "reason"),
    [
        (-1, 0.5, None, "on_its_way"),
        (-21, 5, "unavailable", "broker_away"),
        (-21, -21, "unavailable", "broker_away"),
        (-21, 5, "ok", "broker_away"),
        (-8, 5, "ok", "on_its_way"),
        (-21, -21, "ok", "waits_for_scheduler"),
        (-21, -21, None, "waits_for_scheduler"),
        (-21, 5, None, "on_its_way"),
    ],
)
def test_who_is_away(due_since: float, due_at: float, broker: str | None, reason: str) -> None:
    asked = job(due_since, due_at, broker=broker)
    found = explain(asked)
    assert found.reason == reason
    assert unpublished(asked) == (due_since < -3)
    if reason in ("broker_away", "waits_for_scheduler"):
        assert found.data["since"] == NOW + timedelta(seconds=due_since)


@pytest.mark.parametrize(
    ("due_since", "fields", "asked"),
    [
        (-21, {}, True),
        (-21, {"position": QueuePosition(5)}, True),
        (-1, {}, False),
        (-21, {"capacity": WorkerCapacity(1, 1, 10, 10)}, False),
        (-21, {"capacity": WorkerCapacity(1, 0, 0, 0)}, False),
        (-21, {"status": "running"}, False),
        (-21, {"on_hold": True}, False),
    ],
)
def test_a_published_job_that_a_free_slot_does_not_get(due_since: float, fields: dict[str, Any], asked: bool) -> None:
    published = job(due_since, due_since, published=True, admitted=True, **fields)
    assert may_hang_on_broker(published) == asked
    if asked:
        away = explain(msgspec.structs.replace(published, broker="unavailable"))
        assert away.reason == "broker_away"
        assert away.data["since"] == NOW + timedelta(seconds=due_since)
        answers = explain(msgspec.structs.replace(published, broker="ok"))
        assert answers.reason == ("behind_others" if "position" in fields else "on_its_way")


@pytest.mark.parametrize("status", ["running", "succeeded", "blocked", "scheduled"])
def test_only_what_should_have_been_published_is_missed(status: str) -> None:
    assert not unpublished(job(60 if status == "scheduled" else -60, 60, status=status))
    assert not unpublished(job(-60, -60, published=True))
    assert not unpublished(job(-60, -60, on_hold=True))


@pytest.mark.parametrize(
    ("status", "due", "until", "deferred", "reason"),
    [
        ("retrying", 60, 30, True, "target_held"),
        ("retrying", 60, None, True, "target_held"),
        ("retrying", 60, 90, False, "target_held"),
        ("retrying", 60, 30, False, "retry"),
        ("scheduled", 60, 30, False, "not_due"),
        ("queued", 0, 30, False, "target_held"),
        ("queued", 0, None, True, "on_its_way"),
    ],
)
def test_what_comes_later_holds(status: str, due: float, until: float | None, deferred: bool, reason: str) -> None:
    """A retry after the host is free again waits for its own moment."""
    host = DeferredTarget("h:80", None if until is None else NOW + timedelta(seconds=until), "it asked", 11)
    key = "h:80" if deferred else None
    found = explain(job(due, due, status=status, target=host, deferred_for=key))
    assert found.reason == reason
    if reason == "target_held":
        assert "11 jobs wait for it" in found.detail
        assert found.data["waiting"] == 11


SHARED = QueueLimits(shared=True)
WORKERS = WorkerCapacity(for_queue=1, for_type=1, slots=16, busy=14)


@pytest.mark.parametrize(
    ("limits", "load", "reason", "said"),
    [
        (
            SHARED,
            Load(of_tenant=14),
            "tenant_share",
            "has 14 of the 16 slots of queue q, and leaves the rest",
        ),
        (SHARED, Load(of_tenant=13), "behind_others", "queue q, whose tenants take turns; its tenant has 13 running"),
        (QueueLimits(), Load(of_tenant=16), "behind_others", "It waits behind 3 others on queue q."),
        (QueueLimits(shared=True, max_running=8), Load(of_tenant=7), "tenant_share", "7 of the 8 slots"),
        (
            QueueLimits(shared=True, most_of_tenant=20),
            Load(of_tenant=16, everywhere=20),
            "tenant_limit",
            "Its tenant runs at most 20 jobs at once, and 20 are running.",
        ),
        (QueueLimits(shared=True, most_of_tenant=20), Load(of_tenant=16, everywhere=19), "behind_others", "take turns"),
    ],
)
def test_what_its_tenant_may_have(limits: QueueLimits, load: Load, reason: str, said: str) -> None:
    found = explain(
        job(1, 1, on_hold=True, limits=limits, load=load, capacity=WORKERS, position=QueuePosition(ahead=3))
    )
    assert found.reason == reason
    assert said in found.detail
