"""POST /jobs: the table of its fields, rule by rule, and what the 202 says. Contract, sections 3 and 4."""

import time
from typing import Any

import pytest

from tests.support.clients.client import Client, check_job, check_problem, from_now, seconds_between

DAY = 86400
SLEEP_FOR_LONG = {"type": "sleep", "payload": {"seconds": 0}, "delay": 3600}
URL = {"url": "http://127.0.0.1:9/"}


async def test_the_answer_is_202_with_the_job_and_where_to_look(client: Client) -> None:
    answer = await client.post({"type": "noop", "payload": {"a": [1, 2.5, None, "ü"]}, "delay": 60})

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["operation-location"] == f"/jobs/{job['id']}"
    assert answer.headers["link"] == f'</jobs/{job["id"]}>; rel="monitor"'
    assert int(answer.headers["retry-after"]) >= 1
    assert "idempotent-replayed" not in answer.headers
    check_job(job)
    assert job["payload"] == {"a": [1, 2.5, None, "ü"]}
    assert job["root_id"] == job["id"]
    assert job == (await client.job(job["id"]))


async def test_the_defaults(client: Client) -> None:
    before = time.time()
    job = (await client.post({"type": "noop"})).json()

    assert (job["queue"], job["priority"], job["max_attempts"]) == ("default", 4, 5)
    assert (job["status"], job["attempt"], job["payload"]) == ("queued", 0, {})
    assert (job["tags"], job["metadata"]) == ([], {})
    assert job["result"] is job["error"] is job["progress"] is job["expires_at"] is None
    assert job["started_at"] is job["finished_at"] is job["batch_id"] is job["parent_id"] is None
    made = int(job["id"].replace("-", "")[:12], 16) / 1000  # RFC 9562: a UUIDv7 begins with its time in ms
    assert before - 5 <= made <= time.time() + 5


async def test_what_was_given_is_what_is_shown(client: Client) -> None:
    given = {"queue": "a.b_c-9", "priority": 9, "tags": ["x", "y"], "metadata": {"k": "v", "ü": ""}}
    job = await client.submit("noop", {"n": 1}, delay=3600, expires_at=from_now(7200), **given)
    assert {name: job[name] for name in given} == given
    assert job["status"] == "scheduled"
    assert job["expires_at"] is not None


async def test_a_job_runs_to_its_end(client: Client) -> None:
    job = await client.finish("noop", {"a": 1})
    check_job(job)
    assert (job["status"], job["attempt"], job["error"]) == ("succeeded", 1, None)
    assert job["result"] is not None
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


LONG_TAGS = [f"tag{n}" for n in range(21)]
PAIRS = {f"k{n}": "v" for n in range(51)}

ACCEPTED: dict[str, dict[str, Any]] = {
    "queue of one letter": {"queue": "a"},
    "queue of 64": {"queue": "a" * 64},
    "priority 0": {"priority": 0},
    "priority 9": {"priority": 9},
    "delay 0": {"delay": 0},
    "delay of a fraction": {"delay": 0.25},
    "delay of 366 days": {"delay": 366 * DAY},
    "run_at with Z": {"run_at": "2026-01-01T00:00:00Z"},
    "run_at with an offset": {"run_at": "2026-01-01T00:00:00.123456789+23:59"},
    "run_at in lower case (RFC 3339, section 5.6)": {"run_at": "2026-01-01t00:00:00z"},
    "run_at at the unknown offset": {"run_at": "2026-01-01T00:00:00-00:00"},
    "a short timeout": {"timeout": 0.5},
    "one attempt": {"retry": {"max_attempts": 1}},
    "only a schedule": {"retry": {"schedule": [0.5, 10]}},
    "only a jitter": {"retry": {"jitter": 0}},
    "all of retry": {"retry": {"max_attempts": 5, "schedule": [30, 300, 1800, 7200], "jitter": 0.2}},
    "names in any letters": {
        "tags": ["👩\u200d👩\u200d👧", "می\u200cخواهم", "e\u0301", "שלום\u200e!", "a\u00a0b"],
        "metadata": {"ක්\u200dෂ": "x"},
        "ordering_key": "ක්\u200dෂ",
        "unique": {"key": "👩\u200d👧", "until": "started"},
    },
    "20 tags": {"tags": LONG_TAGS[:20]},
    "50 pairs": {"metadata": dict(list(PAIRS.items())[:50])},
    "a callback": {"callback_url": "https://example.com/hook", "callback_events": ["job.failed", "job.expired"]},
    "all four events": {
        "callback_url": "http://example.com",
        "callback_events": ["job.succeeded", "job.failed", "job.cancelled", "job.expired"],
    },
}


@pytest.mark.parametrize("fields", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_accepted(client: Client, fields: dict[str, Any]) -> None:
    parked = {} if {"delay", "run_at"} & set(fields) else {"delay": 3600}
    answer = await client.post({"type": "noop", **parked, **fields})
    assert answer.status_code == 202, answer.text


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({"type": ...}, "/type", ""),
    "a type of null": ({"type": None}, "/type", ""),
    "a type that is a number": ({"type": 1}, "/type", ""),
    "an empty type": ({"type": ""}, "/type", ""),
    "an unknown type": ({"type": "nop"}, "/type", '"noop"'),
    "another unknown type": ({"type": "http.requst"}, "/type", '"http.request"'),
    "the type of our own deliveries": ({"type": "webhook.deliver"}, "/type", ""),
    "an unknown field": ({"payloda": {}}, "/payloda", '"payload"'),
    "an unknown field in retry": ({"retry": {"max_attempt": 3}}, "/retry/max_attempt", '"max_attempts"'),
    "a field with / and ~": ({"a/b~c": 1}, "/a~1b~0c", ""),
    "payload null": ({"payload": None}, "/payload", ""),
    "payload a list": ({"payload": []}, "/payload", ""),
    "payload a string": ({"payload": "{}"}, "/payload", ""),
    "payload without what it needs": ({"type": "http.request"}, "/payload/url", ""),
    "payload against its schema": ({"type": "sleep", "payload": {"seconds": -1}}, "/payload/seconds", ""),
    "payload of the wrong type": ({"type": "sleep", "payload": {"seconds": "1"}}, "/payload/seconds", ""),
    "payload with an unknown name": ({"type": "sleep", "payload": {"secnds": 1}}, "/payload/secnds", '"seconds"'),
    "a header that may not be set": (
        {"type": "http.request", "payload": {"url": "http://a.com", "headers": {"secret canary": "x"}}},
        "/payload/headers",
        "a name in it is not allowed here",
    ),
    "a payload of what excludes each other": (
        {"type": "http.request", "payload": {"url": "http://a.com", "json": 1, "body": "x"}},
        "/payload",
        "excludes each other",
    ),
    "payload with a forbidden address": (
        {"type": "http.request", "payload": {"url": "http://10.0.0.1/"}},
        "/payload/url",
        "",
    ),
    "queue of 65": ({"queue": "a" * 65}, "/queue", ""),
    "queue in capitals": ({"queue": "Default"}, "/queue", ""),
    "queue that begins with a dash": ({"queue": "-a"}, "/queue", ""),
    "queue with a line end": ({"queue": "a\n"}, "/queue", ""),
    "queue with a letter beyond ASCII": ({"queue": "a\u0131"}, "/queue", ""),
    "no queue": ({"queue": ""}, "/queue", ""),
    "priority -1": ({"priority": -1}, "/priority", ""),
    "priority 10": ({"priority": 10}, "/priority", ""),
    "priority true": ({"priority": True}, "/priority", ""),
    "priority in quotes": ({"priority": "4"}, "/priority", ""),
    "priority 4.5": ({"priority": 4.5}, "/priority", ""),
    "delay below 0": ({"delay": -0.1}, "/delay", ""),
    "delay beyond 366 days": ({"delay": 366 * DAY + 1}, "/delay", ""),
    "delay true": ({"delay": True}, "/delay", ""),
    "delay in quotes": ({"delay": "5"}, "/delay", ""),
    "delay enormous": ({"delay": 10**400}, "/delay", ""),
    "run_at without an offset": ({"run_at": "2026-01-01T00:00:00"}, "/run_at", ""),
    "run_at a number": ({"run_at": 1795470326}, "/run_at", ""),
    "run_at a date": ({"run_at": "2026-01-01"}, "/run_at", ""),
    "run_at without seconds": ({"run_at": "2026-01-01T00:00Z"}, "/run_at", ""),
    "run_at in the basic form": ({"run_at": "20260101T000000Z"}, "/run_at", ""),
    "run_at in the week form": ({"run_at": "2026-W01-1T00:00:00Z"}, "/run_at", ""),
    "run_at on no day": ({"run_at": "2026-02-30T00:00:00Z"}, "/run_at", ""),
    "run_at with offset 24:00": ({"run_at": "2026-01-01T00:00:00+24:00"}, "/run_at", ""),
    "run_at with offset 01:60": ({"run_at": "2026-01-01T00:00:00+01:60"}, "/run_at", ""),
    "run_at in Arabic digits": ({"run_at": "٢٠٢٦-01-01T00:00:00Z"}, "/run_at", ""),
    "run_at beyond the calendar": ({"run_at": "9999-12-31T23:59:59-23:59"}, "/run_at", ""),
    "run_at beyond 366 days": ({"run_at": from_now(366 * DAY + 3600)}, "/run_at", ""),
    "expires_at without an offset": ({"expires_at": "2027-01-01T00:00:00"}, "/expires_at", ""),
    "expires_at a number": ({"expires_at": 5}, "/expires_at", ""),
    "timeout 0": ({"timeout": 0}, "/timeout", ""),
    "timeout below 0": ({"timeout": -1}, "/timeout", ""),
    "timeout true": ({"timeout": True}, "/timeout", ""),
    "timeout in quotes": ({"timeout": "1"}, "/timeout", ""),
    "retry a number": ({"retry": 3}, "/retry", ""),
    "no attempt": ({"retry": {"max_attempts": 0}}, "/retry/max_attempts", ""),
    "too many attempts": ({"retry": {"max_attempts": 10**9}}, "/retry/max_attempts", ""),
    "attempts true": ({"retry": {"max_attempts": True}}, "/retry/max_attempts", ""),
    "an empty schedule": ({"retry": {"schedule": []}}, "/retry/schedule", ""),
    "a wait below 0": ({"retry": {"schedule": [1, -1]}}, "/retry/schedule/1", ""),
    "a jitter below 0": ({"retry": {"jitter": -0.1}}, "/retry/jitter", ""),
    "21 tags": ({"tags": LONG_TAGS}, "/tags", ""),
    "a long tag": ({"tags": ["ok", "x" * 10_000]}, "/tags/1", ""),
    "a tag that is a number": ({"tags": [1]}, "/tags/0", ""),
    "tags in a string": ({"tags": "a"}, "/tags", ""),
    "a tag with a line end": ({"tags": ["a\nb"]}, "/tags/0", ""),
    "a tag with an escape": ({"tags": ["\x1b[31m"]}, "/tags/0", ""),
    "a tag that is shown backwards": ({"tags": ["a\u202egnp.exe"]}, "/tags/0", "direction"),
    "an isolate in a name of metadata": ({"metadata": {"a\u2066": "x"}}, "/metadata/a\u2066", "direction"),
    "a C1 control in a unique key": ({"unique": {"key": "\u0085", "until": "started"}}, "/unique/key", "printable"),
    "an override in a concurrency_key": ({"concurrency_key": "\u202d1"}, "/concurrency_key", "direction"),
    "51 pairs": ({"metadata": PAIRS}, "/metadata", ""),
    "metadata with a number": ({"metadata": {"k": 1}}, "/metadata/k", ""),
    "metadata with null": ({"metadata": {"k": None}}, "/metadata/k", ""),
    "metadata a list": ({"metadata": ["k"]}, "/metadata", ""),
    "an unknown event": ({"callback_url": "http://a.com", "callback_events": ["job.done"]}, "/callback_events/0", ""),
    "events in a string": ({"callback_url": "http://a.com", "callback_events": "job.failed"}, "/callback_events", ""),
    "an empty ordering_key": ({"ordering_key": ""}, "/ordering_key", ""),
    "a long ordering_key": ({"ordering_key": "k" * 256}, "/ordering_key", ""),
    "an ordering_key that is a number": ({"ordering_key": 1}, "/ordering_key", ""),
    "an ordering_key with a line end": ({"ordering_key": "a\nb"}, "/ordering_key", ""),
    "an empty concurrency_key": ({"concurrency_key": ""}, "/concurrency_key", ""),
    "a long concurrency_key": ({"concurrency_key": "x" * 256}, "/concurrency_key", ""),
    "a concurrency_key that is a number": ({"concurrency_key": 1}, "/concurrency_key", ""),
    "a concurrency_key with NUL": ({"concurrency_key": "a\x00"}, "/concurrency_key", "U+0000"),
    "a unique key without an end": ({"unique": {"key": "k"}}, "/unique/until", "required"),
}


@pytest.mark.parametrize(("fields", "pointer", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused(client: Client, fields: dict[str, Any], pointer: str, says: str) -> None:
    body = {"type": "noop", "delay": 3600} if not {"delay", "run_at"} & set(fields) else {"type": "noop"}
    body = {name: value for name, value in (body | fields).items() if value is not ...}
    check_problem(await client.post(body), 422, pointer, says)


async def test_run_at_and_delay_are_not_both_taken(client: Client) -> None:
    document = check_problem(await client.post({"type": "noop", "run_at": from_now(60), "delay": 60}), 422)
    assert {error["pointer"] for error in document["errors"]} & {"/run_at", "/delay", ""}


async def test_all_faults_are_told_at_once(client: Client) -> None:
    answer = await client.post({"type": "sleep", "priority": 10, "queue": "A", "taggs": [], "timeout": 0})
    pointers = {error["pointer"] for error in check_problem(answer, 422)["errors"]}
    assert {"/priority", "/queue", "/taggs", "/timeout"} <= pointers


async def test_a_refusal_does_not_repeat_the_payload(client: Client) -> None:
    secret = "CanaryOfThePayload"
    for body in (
        {"type": "sleep", "payload": {"seconds": secret}},
        {"type": "http.request", "payload": {"url": f"ftp://{secret}/"}},
        {"type": "noop", "payload": secret},
        {"type": "nop", "payload": {"x": secret}},
    ):
        answer = await client.post(body)
        assert secret not in answer.text
        assert answer.status_code == 422
    answer = await client.post_bytes(f'{{"type": "noop", "payload": {{"x": "{secret}", }}'.encode())
    assert secret not in answer.text
    assert answer.status_code == 400


async def test_nothing_refused_becomes_a_job(client: Client) -> None:
    await client.post({"type": "noop", "queue": "refused-only", "priority": 10})
    await client.post({"type": "nop", "queue": "refused-only"})
    assert (await client.get("/jobs?queue=refused-only")).json()["items"] == []


async def test_a_run_at_in_the_past_means_now(client: Client) -> None:
    for run_at in ("2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "0001-01-02T00:00:00Z"):
        job = await client.submit("noop", run_at=run_at)
        assert job["status"] == "queued"
        assert -1 < seconds_between(job["created_at"], job["run_at"]) <= 5
        assert (await client.finished(job["id"]))["status"] == "succeeded"


async def test_the_earliest_instant_that_can_be_written_is_no_500(client: Client) -> None:
    answer = await client.post({"type": "noop", "run_at": "0001-01-01T00:00:00+23:59"})
    assert answer.status_code in (202, 422)  # before the year 1 in UTC: a date that cannot be shown
