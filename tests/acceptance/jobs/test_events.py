"""GET /jobs/{id}/events: Server-Sent Events. Contract, section 4."""

import asyncio
import json

import pytest

from tests.support.clients.client import Client, check_problem


async def test_the_stream_tells_each_status_and_ends_with_the_job(client: Client) -> None:
    job = await client.submit("noop", delay=1)
    events = await asyncio.wait_for(client.all_events(job["id"]), 40)

    statuses = [json.loads(event["data"])["status"] for event in events if event["event"] == "status"]
    assert statuses[0] == "scheduled"
    assert statuses[-1] == "succeeded"
    assert {"queued", "running"} & set(statuses)
    assert len(statuses) == len(set(statuses))
    assert all(event["id"] for event in events if event["event"] == "status")


async def test_retries_are_told(client: Client) -> None:
    job = await client.submit("sleep", {"seconds": 0, "fail_attempts": 1}, retry={"schedule": [1], "jitter": 0})
    events = await asyncio.wait_for(client.all_events(job["id"]), 40)
    statuses = [json.loads(event["data"])["status"] for event in events if event["event"] == "status"]
    assert statuses[-1] == "succeeded"
    assert "retrying" in statuses
    assert statuses.index("retrying") < len(statuses) - 1


async def test_the_ids_rise_and_last_event_id_resumes_behind_it(client: Client) -> None:
    job = await client.finish("sleep", {"seconds": 0, "fail_attempts": 2}, retry={"schedule": [0.1], "jitter": 0})
    whole = await asyncio.wait_for(client.all_events(job["id"]), 20)
    ids = [event["id"] for event in whole]
    assert len(set(ids)) == len(ids) >= 4
    for place, id in enumerate(ids):
        rest = await asyncio.wait_for(client.all_events(job["id"], id), 20)
        assert rest == whole[place + 1 :]


async def test_who_has_heard_the_end_is_told_not_to_come_back(client: Client) -> None:
    """204 stops an EventSource, which comes back after any other end (the HTML standard, section 9.2.3)."""
    job = await client.submit("sleep", {"seconds": 1})
    *_, before, last = await asyncio.wait_for(client.all_events(job["id"]), 40)
    path = f"/jobs/{job['id']}/events"
    again = await client.get(path, headers={"Last-Event-ID": last["id"]})
    assert (again.status_code, again.content) == (204, b"")
    assert "content-type" not in again.headers
    assert (await client.get(path, headers={"Last-Event-ID": before["id"]})).status_code == 200
    stranger = await client.get(path, headers={"Last-Event-ID": f"{int(last['id']) + 1}"})
    assert stranger.status_code == 200


async def test_a_stream_of_a_finished_job_ends_at_once(client: Client) -> None:
    job = await client.finish("noop")
    events = await asyncio.wait_for(client.all_events(job["id"]), 10)
    assert json.loads(events[-1]["data"])["status"] == "succeeded"


async def test_resumed_in_the_middle_nothing_is_missed_or_told_twice(client: Client) -> None:
    job = await client.submit("sleep", {"seconds": 0.3, "fail_attempts": 2}, retry={"schedule": [0.3], "jitter": 0})
    seen, last = [], ""
    for _ in range(100):  # hang up after each event
        async with client.events(job["id"], last) as events:
            event = await asyncio.wait_for(anext(events, None), 40)
        if event is None:
            break
        seen.append(event)
        last = event["id"]
    numbers = [int(event["id"]) for event in seen]
    assert numbers == sorted(set(numbers))
    # What nothing recorded (how long a retry sat queued) is told while it lasts, not afterwards.
    told_later = await asyncio.wait_for(client.all_events(job["id"]), 20)
    assert {event["id"] for event in told_later} <= {event["id"] for event in seen}


async def test_a_comment_comes_every_15_s(client: Client) -> None:
    job = await client.submit("noop", delay=3600)
    comments = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with client.http.stream("GET", f"/jobs/{job['id']}/events") as answer, asyncio.timeout(40):
        async for line in answer.aiter_lines():
            comments += line.startswith(":") and loop.time() - began > 5
            if comments:
                break
    assert comments
    assert loop.time() - began < 18


async def test_many_streams_at_once(client: Client) -> None:
    job = await client.submit("noop", delay=2)
    streams = await asyncio.wait_for(asyncio.gather(*(client.all_events(job["id"]) for _ in range(40))), 60)
    assert all(json.loads(events[-1]["data"])["status"] == "succeeded" for events in streams)


async def test_an_id_of_another_stream_hides_nothing(client: Client) -> None:
    job = await client.finish("noop")
    events = await client.all_events(job["id"], "99999999")
    assert events == await client.all_events(job["id"])
    assert json.loads(events[-1]["data"])["status"] == "succeeded"


@pytest.mark.parametrize("last", ["x", "-1", "99999999999999999999999", "1.5", "' OR 1=1"])
async def test_a_strange_last_event_id_is_no_500(client: Client, last: str) -> None:
    job = await client.finish("noop")
    answer = await client.get(f"/jobs/{job['id']}/events", headers={"last-event-id": last})
    if answer.status_code != 200:
        check_problem(answer, 422)


async def test_a_job_that_waits_for_another_has_a_stream(client: Client) -> None:
    jobs = [
        {"ref": "first", "type": "sleep", "payload": {"seconds": 2}},
        {"ref": "then", "type": "noop", "depends_on": ["first"]},
    ]
    answer = await client.http.post("/workflows", json={"jobs": jobs})
    listed = (await client.get(f"/batches/{answer.json()['id']}")).json()["jobs"]
    then = next(job["id"] for job in listed if job["ref"] == "then")
    events = await asyncio.wait_for(client.all_events(then), 40)
    statuses = [json.loads(event["data"])["status"] for event in events if event["event"] == "status"]
    assert (statuses[0], statuses[-1]) == ("blocked", "succeeded")
