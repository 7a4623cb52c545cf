"""Dead letters over HTTP: lists, groups, replay, discard, another payload. Contract, section 4."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clients.client import TIME, Client, Job, check_problem, from_now
from tests.support.clients.failed_jobs import failed, post
from tests.support.servers.receiver import Answer, Receiver
from tests.support.waiting import until


async def some(client: Client, queue: str, count: int, **fields: Any) -> list[Job]:
    return list(await asyncio.gather(*(failed(client, queue=queue, **fields) for _ in range(count))))


async def listed(client: Client, query: str) -> Any:
    answer = await client.get(f"/dead-letters?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_failed_job_is_listed(client: Client, queue: str) -> None:
    (job,) = await some(client, queue, 1)
    page = await listed(client, f"queue={queue}")
    (letter,) = page["items"]
    assert page["next"] is None
    path = f"/jobs/{job['id']}"
    assert letter == {
        "id": job["id"], "job_id": job["id"], "type": "sleep", "queue": queue, "class": job["error"]["class"],
        "message": job["error"]["message"], "attempt": 1, "failed_at": job["finished_at"],
        "links": {"job": path, "attempts": f"{path}/attempts", "replay": f"/dead-letters/{job['id']}/replay"},
    }  # fmt: skip
    assert TIME.fullmatch(letter["failed_at"])
    assert (await client.get(letter["links"]["attempts"])).json().keys() == {"items", "next"}


async def test_filters_narrow_down(client: Client, queue: str) -> None:
    first, second = [(await some(client, queue, 1))[0] for _ in range(2)]
    for query, expected in (
        ("type=sleep", 2), ("type=noop", 0), ("class=transient", 2), ("class=auth", 0),
        (f"before={second['finished_at']}", 1), (f"before={first['finished_at']}", 0),
        (f"ids={first['id']}", 1), (f"ids={first['id']},{second['id']}", 2), (f"ids={first['id']}&ids={uuid4()}", 1),
    ):  # fmt: skip
        assert len((await listed(client, f"queue={queue}&{query}"))["items"]) == expected, query


async def test_pages(client: Client, other: Client, queue: str) -> None:
    jobs = await some(client, queue, 5)
    found, path = [], f"/dead-letters?queue={queue}&limit=2"
    while path:
        answer = await client.get(path)
        found += answer.json()["items"]
        path = answer.headers["link"].partition(">")[0][1:] if "link" in answer.headers else ""
    assert {letter["id"] for letter in found} == {job["id"] for job in jobs}
    times = [letter["failed_at"] for letter in found]
    assert times == sorted(times, reverse=True)
    cursor = (await listed(client, f"queue={queue}&limit=2"))["next"]
    check_problem(await client.get(f"/dead-letters?limit=2&cursor={cursor}"), 422, "/cursor")
    check_problem(await other.get(f"/dead-letters?queue={queue}&cursor={cursor}"), 422, "/cursor")
    check_problem(await client.get(f"/dead-letters?queue={queue}&group=error&cursor={cursor}"), 422, "/cursor")


async def test_groups(client: Client, queue: str) -> None:
    await some(client, queue, 3)
    (group,) = (await listed(client, f"queue={queue}&group=error"))["items"]
    assert (group["type"], group["queue"], group["class"], group["count"]) == ("sleep", queue, "transient", 3)
    assert group["first_at"] <= group["last_at"]
    newest = (await listed(client, f"queue={queue}"))["items"][0]
    assert (group["example"], group["last_at"]) == (newest["id"], newest["failed_at"])


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("class=bogus", "/class"), ("before=yesterday", "/before"), ("ids=1", "/ids/0"), ("limit=0", "/limit"),
     ("limit=201", "/limit"), ("cursor=x", "/cursor"), ("group=type", "/group"), ("types=noop", "/types"),
     ("queue=A", "/queue"), ("type=%00", "/type"), ("ids=", "/ids/0")],
)  # fmt: skip
async def test_a_wrong_query(client: Client, query: str, pointer: str) -> None:
    check_problem(await client.get(f"/dead-letters?{query}"), 422, pointer)


async def test_a_dry_run_a_replay_and_another(client: Client, queue: str) -> None:
    jobs = await some(client, queue, 3)
    dry = await post(client, "/dead-letters/replay", {"queue": queue, "dry_run": True})
    assert (dry.status_code, dry.json()) == (200, {"matched": 3, "replayed": 0})
    done = await post(client, "/dead-letters/replay", {"queue": queue, "class": "transient", "before": from_now(60)})
    assert done.json() == {"matched": 3, "replayed": 3}
    for job in jobs:
        ended = await client.finished(job["id"])
        assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    assert (await post(client, "/dead-letters/replay", {"queue": queue})).json() == {"matched": 0, "replayed": 0}


async def test_a_paced_replay(client: Client, queue: str) -> None:
    jobs = await some(client, queue, 3)
    done = await post(client, "/dead-letters/replay", {"queue": queue, "spread_over": 3000})
    assert done.json() == {"matched": 3, "replayed": 3}
    first, *later = [await client.job(job["id"]) for job in sorted(jobs, key=lambda job: job["id"])]
    assert first["status"] != "scheduled"
    assert [job["status"] for job in later] == ["scheduled"] * 2
    assert (await client.finished(first["id"]))["status"] == "succeeded"


async def test_discarded_jobs_stay_failed(client: Client, queue: str) -> None:
    one, two = await some(client, queue, 2)
    dry = await post(client, "/dead-letters/discard", {"queue": queue, "dry_run": True})
    assert dry.json() == {"matched": 2, "discarded": 0}
    assert (await post(client, "/dead-letters/discard", {"ids": [one["id"]]})).json() == {"matched": 1, "discarded": 1}
    assert (await client.job(one["id"]))["status"] == "failed"
    assert [letter["id"] for letter in (await listed(client, f"queue={queue}"))["items"]] == [two["id"]]
    check_problem(await post(client, f"/dead-letters/{one['id']}/replay"), 409)
    assert (await post(client, f"/jobs/{one['id']}/retry")).status_code == 202  # it may still be retried


@pytest.mark.parametrize("path", ["/dead-letters/replay", "/dead-letters/discard"])
@pytest.mark.parametrize(
    ("body", "pointer", "says"),
    [
        ({"queues": "a"}, "/queues", 'did you mean "queue"'),
        ({"ids": None}, "/ids", "null"),
        ({"class": "x"}, "/class", ""),
        ({"ids": ["x"]}, "/ids/0", ""),
        ({"dry_run": 1}, "/dry_run", ""),
        ({"before": 5}, "/before", ""),
        ([], "", "object"),
    ],
)
async def test_a_wrong_body(client: Client, path: str, body: Any, pointer: str, says: str) -> None:
    check_problem(await post(client, path, body), 422, pointer, says)


async def test_more_wrong_bodies(client: Client) -> None:
    check_problem(await post(client, "/dead-letters/replay", {"spread_over": -1}), 422, "/spread_over")
    check_problem(await post(client, "/dead-letters/discard", {"spread_over": 1}), 422, "/spread_over")
    check_problem(await client.http.post("/dead-letters/replay"), 415)
    check_problem(await client.http.post("/dead-letters/replay", content="{", headers=JSON), 400)
    check_problem(await client.http.post("/dead-letters/replay", content=b" " * 70_000, headers=JSON), 413)


JSON = {"content-type": "application/json"}


async def test_no_ids_select_nothing(client: Client, queue: str) -> None:
    await some(client, queue, 1)
    assert (await post(client, "/dead-letters/discard", {"ids": []})).json() == {"matched": 0, "discarded": 0}
    assert len((await listed(client, f"queue={queue}"))["items"]) == 1


async def test_tenants_do_not_see_each_others_letters(client: Client, other: Client, queue: str) -> None:
    (job,) = await some(client, queue, 1)
    for query in (f"queue={queue}", f"ids={job['id']}", "group=error"):
        assert job["id"] not in json.dumps(await listed(other, query)), query
    for act in ("replay", "discard"):
        answer = await post(other, f"/dead-letters/{act}", {"ids": [job["id"]]})
        assert answer.json()["matched"] == 0
    check_problem(await post(other, f"/dead-letters/{job['id']}/replay"), 404)
    assert (await client.job(job["id"]))["status"] == "failed"


async def test_scopes(trio: Any, keys: dict[str, str], client: Client) -> None:
    reader, writer, nobody = trio.client(keys["reader"]), trio.client(keys["writer"]), trio.client()
    check_problem(await writer.get("/dead-letters"), 403)
    assert (await reader.get("/dead-letters")).status_code == 200
    for path in ("/dead-letters/replay", "/dead-letters/discard", f"/dead-letters/{uuid4()}/replay"):
        check_problem(await post(reader, path, {}), 403)
        check_problem(await post(nobody, path, {}), 401)


async def test_without_rabbitmq_no_message_is_rejected(client: Client) -> None:
    assert "\naccepted_rejected_messages 0.0" in (await client.get("/metrics")).text


async def test_one_letter_is_replayed_as_it_was(client: Client) -> None:
    job = await failed(client)
    answer = await client.http.post(f"/dead-letters/{job['id']}/replay")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (await client.finished(job["id"]))["status"] == "succeeded"
    assert (await client.get(f"/jobs/{job['id']}/attempts")).json().keys() == {"items", "next"}
    check_problem(await client.http.post(f"/dead-letters/{job['id']}/replay"), 409)
    check_problem(await client.http.post(f"/dead-letters/{uuid4()}/replay"), 404)


async def test_one_letter_is_replayed_with_another_payload(client: Client) -> None:
    before = {"seconds": 0, "fail_attempts": 9}
    job = await failed(client, payload=before)
    path = f"/dead-letters/{job['id']}/replay"
    check_problem(await post(client, path, {"payload": {"second": 0}}), 422, "/payload/second", "seconds")
    check_problem(await post(client, path, {"payload": None}), 422, "/payload")
    check_problem(await post(client, path, {"payloads": {}}), 422, "/payloads", "payload")
    check_problem(await post(client, path, {"payload": {"x": "y" * 300_000}}), 413)
    assert (await client.job(job["id"]))["status"] == "failed"
    answer = await post(client, path, {"payload": {"seconds": 0}})
    assert (answer.status_code, answer.json()["payload"]) == (202, {"seconds": 0})
    done = await client.finished(job["id"])
    assert (done["status"], done["payload"]) == ("succeeded", {"seconds": 0})
    (edit,) = (await client.get(f"/jobs/{job['id']}/attempts")).json()["edits"]
    assert TIME.fullmatch(edit.pop("edited_at"))
    assert edit == {"after_attempt": 1, "payload_before": before, "edited_by": "tests"}


async def test_failed_deliveries_are_letters_under_their_own_type(client: Client) -> None:
    async with Receiver(lambda _: Answer(410)) as receiver:
        job = (await client.post({"type": "noop", "callback_url": f"{receiver.url}/"})).json()

        async def there() -> list[Any]:
            page = await listed(client, "type=webhook.deliver&class=invalid&limit=200")
            deliveries = [await client.job(letter["id"]) for letter in page["items"]]
            return [each for each in deliveries if each["payload"]["job_id"] == job["id"]]

        (delivery,) = await until(there, 30, "the delivery's letter", interval=0.2)
        assert "webhook.deliver" not in {each["type"] for each in (await listed(client, "limit=200"))["items"]}
        path = f"/dead-letters/{delivery['id']}/replay"
        check_problem(await post(client, path, {"payload": delivery["payload"]}), 422, "/payload")
        receiver.respond = lambda _: Answer(200)
        assert (await post(client, path)).status_code == 202
        assert (await client.finished(delivery["id"]))["status"] == "succeeded"
