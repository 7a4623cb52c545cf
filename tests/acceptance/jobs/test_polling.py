"""GET /jobs/{id}: entity tags, waiting, what is gone; and Prefer: wait. Contract, section 4."""

import asyncio
import re
import time
from email.utils import parsedate_to_datetime
from uuid import UUID, uuid4

import pytest

from tests.support.clients.client import Client, check_job, check_problem

UNKNOWN = "ffffffff-ffff-4fff-bfff-ffffffffffff"


def uuid7_aged(days: float) -> UUID:
    """RFC 9562, section 5.7: 48 bits of milliseconds, then what makes it unique."""
    milliseconds = int((time.time() - days * 86400) * 1000)
    return UUID(int=(milliseconds << 80) | (7 << 76) | (uuid4().int & ((1 << 62) - 1)) | (0b10 << 62))


async def test_a_job_has_a_strong_entity_tag_that_changes_with_it(client: Client) -> None:
    job = await client.submit("noop", delay=1)
    first = await client.get(f"/jobs/{job['id']}")
    again = await client.get(f"/jobs/{job['id']}")
    assert first.headers["etag"] == again.headers["etag"]
    assert first.headers["etag"].startswith('"')
    assert first.headers["etag"].endswith('"')

    await client.finished(job["id"])
    done = await client.get(f"/jobs/{job['id']}")
    assert done.headers["etag"] != first.headers["etag"]
    check_job(done.json())


async def test_retry_after_is_told_until_the_job_is_finished(client: Client) -> None:
    job = await client.submit("sleep", {"seconds": 1.5})
    assert int((await client.get(f"/jobs/{job['id']}")).headers["retry-after"]) >= 1
    await client.until_status(job["id"], "running")
    assert int((await client.get(f"/jobs/{job['id']}")).headers["retry-after"]) >= 1
    await client.finished(job["id"])
    assert "retry-after" not in (await client.get(f"/jobs/{job['id']}")).headers


async def test_if_none_match(client: Client) -> None:
    job = await client.submit("noop", delay=3600)
    path = f"/jobs/{job['id']}"
    tag = (await client.get(path)).headers["etag"]
    for same in (tag, f"W/{tag}", "*", f'"x", {tag}', f'"a,b" , W/{tag}', f'{tag},"x"'):
        answer = await client.get(path, headers={"if-none-match": same})
        assert answer.status_code == 304, same
        assert answer.content == b""
        assert answer.headers["etag"] == tag
    for another in ('"x"', 'W/"x"', '"x", "y"', tag.strip('"'), f'"{tag[1:3]}"', ""):
        answer = await client.get(path, headers={"if-none-match": another})
        assert answer.status_code == 200, another


async def test_the_date_of_a_long_poll_is_that_of_its_answer(client: Client) -> None:
    """Workers in other languages reckon by it how long their leases are."""
    job = await client.submit("noop", delay=3600)
    answer = await client.get(f"/jobs/{job['id']}?wait=4")
    assert time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp() < 3


async def test_wait_answers_when_the_status_changes(client: Client) -> None:
    job = await client.submit("noop", delay=1.5)
    began = time.monotonic()
    answer = await client.get(f"/jobs/{job['id']}?wait=30")
    assert answer.json()["status"] != "scheduled"
    assert time.monotonic() - began < 20


async def test_wait_ends_after_its_time(client: Client) -> None:
    job = await client.submit("noop", delay=3600)
    began = time.monotonic()
    answer = await client.get(f"/jobs/{job['id']}?wait=1")
    assert 0.9 <= time.monotonic() - began < 15
    assert (answer.status_code, answer.json()["status"]) == (200, "scheduled")


async def test_wait_with_an_entity_tag_answers_when_it_no_longer_holds(client: Client) -> None:
    job = await client.submit("noop", delay=1.5)
    path = f"/jobs/{job['id']}"
    tag = (await client.get(path)).headers["etag"]

    at_once = await client.get(f"{path}?wait=30", headers={"if-none-match": '"another"'})
    assert (at_once.status_code, at_once.json()["status"]) == (200, "scheduled")

    began = time.monotonic()
    changed = await client.get(f"{path}?wait=30", headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert time.monotonic() - began < 20

    await client.finished(job["id"])
    tag = (await client.get(path)).headers["etag"]
    began = time.monotonic()
    assert (await client.get(f"{path}?wait=1", headers={"if-none-match": tag})).status_code == 304
    assert time.monotonic() - began < 15


async def test_a_wait_on_a_finished_job_does_not_wait_for_ever(client: Client) -> None:
    job = await client.finish("noop")
    answer = await asyncio.wait_for(client.get(f"/jobs/{job['id']}?wait=2"), 20)
    assert answer.json()["status"] == "succeeded"


async def test_many_can_wait_at_once(client: Client) -> None:
    job = await client.submit("noop", delay=2)
    answers = await asyncio.gather(*(client.get(f"/jobs/{job['id']}?wait=30") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert "scheduled" not in {answer.json()["status"] for answer in answers}


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1e3", "", "99999999999999999999"])
async def test_a_wrong_wait_is_422(client: Client, wait: str) -> None:
    job = await client.submit("noop", delay=3600)
    check_problem(await client.get(f"/jobs/{job['id']}?wait={wait}"), 422)


@pytest.mark.parametrize("path", ["/jobs/{id}", "/jobs/{id}/attempts", "/jobs/{id}/events"])
async def test_unknown_is_404_and_older_than_the_retention_is_410(client: Client, path: str) -> None:
    check_problem(await client.get(path.format(id=UNKNOWN)), 404)
    check_problem(await client.get(path.format(id=uuid7_aged(0))), 404)
    check_problem(await client.get(path.format(id=uuid7_aged(1))), 404)
    check_problem(await client.get(path.format(id=uuid7_aged(3650))), 410)
    check_problem(await client.get(path.format(id=uuid7_aged(-3650))), 404)


@pytest.mark.parametrize("path", ["/jobs/{}?wiat=1", "/jobs/{}/attempts?a=1", "/jobs/{}/events?a=1", "/job-types?a"])
async def test_an_unknown_query_parameter_is_422(client: Client, path: str) -> None:
    job = await client.finish("noop")
    check_problem(await client.get(path.format(job["id"])), 422)


async def test_an_unknown_query_parameter_of_a_submission_is_422(client: Client) -> None:
    check_problem(await client.http.post("/jobs?dry_run=1", json={"type": "noop"}), 422)


async def test_attempts_tell_of_each_run(client: Client) -> None:
    job = await client.finish("sleep", {"seconds": 0, "fail_attempts": 1}, retry={"max_attempts": 3, "schedule": [0.1]})
    failed, succeeded = await client.attempts(job["id"])
    assert set(failed) == {
        "attempt", "worker", "worker_name", "started_at", "finished_at", "outcome", "error", "traceback",
    }  # fmt: skip
    assert set(failed["error"]) == {"class", "message", "attempt"}
    assert (failed["attempt"], failed["error"]["class"], failed["error"]["attempt"]) == (1, "transient", 1)
    assert (succeeded["attempt"], succeeded["outcome"], succeeded["error"]) == (2, "succeeded", None)
    assert failed["worker"]
    assert re.fullmatch(r".+:\d+", failed["worker_name"])
    assert failed["started_at"] <= failed["finished_at"] <= succeeded["started_at"] <= succeeded["finished_at"]
    assert await client.attempts((await client.submit("noop", delay=3600))["id"]) == []


async def test_prefer_wait_answers_200_with_the_finished_job(client: Client) -> None:
    answer = await client.post({"type": "noop"}, prefer="wait=30")
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.json()["status"] == "succeeded"
    check_job(answer.json())
    failed = await client.post(
        {"type": "sleep", "payload": {"seconds": 0, "fail_attempts": 9}, "retry": {"max_attempts": 1}}, prefer="wait=30"
    )
    assert (failed.status_code, failed.json()["status"]) == (200, "failed")


async def test_prefer_wait_answers_202_when_the_time_is_over(client: Client) -> None:
    began = time.monotonic()
    answer = await client.post({"type": "noop", "delay": 3600}, prefer="wait=1")
    assert answer.status_code == 202
    assert 0.9 <= time.monotonic() - began < 15
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("prefer", ["respond-async", "wait=abc", "wait=-1", "wait", "handling=lenient", "", ", ,"])
async def test_other_preferences_are_no_error_and_not_applied(client: Client, prefer: str) -> None:
    answer = await client.post({"type": "noop", "delay": 3600}, prefer=prefer)
    assert answer.status_code == 202
    assert not answer.headers.get("preference-applied", "").startswith("wait")


@pytest.mark.parametrize("prefer", ['wait="1"', "Wait=1", "foo; bar=1, wait=1", "wait=1, wait=50", "wait = 1"])
async def test_wait_in_its_other_spellings(client: Client, prefer: str) -> None:
    """RFC 7240, section 2: names ignore case, values may be quoted, the first of two counts."""
    answer = await client.post({"type": "noop", "delay": 3600}, prefer=prefer)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"


async def test_a_wait_beyond_60_is_no_error(client: Client) -> None:
    answer = await client.post({"type": "noop"}, prefer="wait=3600")
    assert answer.status_code in (200, 202)
    assert answer.headers.get("preference-applied", "wait=60") == "wait=60"


async def test_a_replay_can_wait_too(client: Client) -> None:
    key = f"wait-{uuid4()}"
    first = await client.post({"type": "noop", "delay": 1}, idempotency_key=key)
    again = await client.post({"type": "noop", "delay": 1}, idempotency_key=key, prefer="wait=30")
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["preference-applied"] == "wait=30"
    assert (again.status_code, again.json()["status"]) == (200, "succeeded")
