"""Idempotency-Key on POST /jobs. Contract, section 4."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.clients.client import Client, check_job, check_problem
from tests.support.service.running_service import serving, types_known
from tests.support.waiting import until

PARKED = {"type": "noop", "delay": 3600}
TTL = 1  # seconds for which the API of `strict` remembers a key


def new_key() -> str:
    return f"key-{uuid4()}"


async def test_the_same_key_and_body_give_the_same_job(client: Client) -> None:
    key = new_key()
    first = await client.post(PARKED, idempotency_key=key)
    again = await client.post(PARKED, idempotency_key=key)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    check_job(again.json())
    for name in ("location", "operation-location", "link"):
        assert again.headers[name] == first.headers[name]
    assert "retry-after" in again.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers


async def test_a_replay_of_a_finished_job_is_still_202(client: Client) -> None:
    key = new_key()
    first = await client.post({"type": "noop"}, idempotency_key=key)
    await client.finished(first.json()["id"])
    again = await client.post({"type": "noop"}, idempotency_key=key)
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert len(await client.attempts(first.json()["id"])) == 1


async def test_a_hundred_at_once_make_one_job_that_runs_once(client: Client) -> None:
    key, queue = new_key(), f"hundred-{uuid4()}"
    body = {"type": "noop", "queue": queue}
    answers = await asyncio.gather(*(client.post(body, idempotency_key=key) for _ in range(100)))

    assert [answer.status_code for answer in answers] == [202] * 100
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert (replayed.count("true"), replayed.count(None)) == (99, 1)
    id = answers[0].json()["id"]
    assert (await client.finished(id))["attempt"] == 1
    assert len(await client.attempts(id)) == 1
    assert len((await client.get(f"/jobs?queue={queue}")).json()["items"]) == 1


async def test_a_hundred_at_once_with_two_bodies(client: Client) -> None:
    """One of the bodies wins and is one job; every bearer of the other is told so."""
    key = new_key()
    bodies = [{**PARKED, "payload": {"n": n % 2}} for n in range(60)]
    answers = await asyncio.gather(*(client.post(body, idempotency_key=key) for body in bodies))
    accepted = [(body, answer) for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 202]
    refused = [(body, answer) for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 422]
    assert len(accepted) == len(refused) == 30
    assert len({answer.json()["id"] for _, answer in accepted}) == 1
    assert len({body["payload"]["n"] for body, _ in accepted}) == 1


async def test_the_quoted_and_the_bare_form_are_one_key(client: Client) -> None:
    key = new_key()
    bare = await client.post(PARKED, idempotency_key=key)
    quoted = await client.post(PARKED, idempotency_key=f'"{key}"')
    assert quoted.status_code == 202
    assert quoted.json()["id"] == bare.json()["id"]
    assert quoted.headers["idempotent-replayed"] == "true"


async def test_another_body_with_the_key_is_refused(client: Client) -> None:
    key = new_key()
    first = await client.post(PARKED, idempotency_key=key)
    for other in ({**PARKED, "payload": {"a": 1}}, {**PARKED, "priority": 5}, {**PARKED, "type": "sleep"}):
        document = check_problem(await client.post(other, idempotency_key=key), 422)
        assert document["type"] == "/problems/idempotency-key-reused"
    assert (await client.post(PARKED, idempotency_key=key)).json()["id"] == first.json()["id"]


async def test_a_body_is_the_same_as_json_not_as_bytes(client: Client) -> None:
    key = new_key()
    spellings = [
        b'{"type":"noop","delay":3600,"payload":{"a":1,"b":[1.5,"\xc3\xbc"]}}',
        b'  {"payload" : {"b":[ 1.50, "\\u00fc"],\n\t"a":1.0},"delay":36e2, "type":"no\\u006fp"} ',
        b'{"delay":3600.0,"type":"noop","payload":{"a":1e0,"b":[15e-1,"\\u00FC"]}}',
    ]
    answers = [await client.post_bytes(body, idempotency_key=key) for body in spellings]
    assert [answer.status_code for answer in answers] == [202] * 3, [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1
    for other in (b'{"type":"noop","delay":3600,"payload":{"a":true,"b":[1.5,"\xc3\xbc"]}}',
                  b'{"type":"noop","delay":3600,"payload":{"a":1,"b":["\xc3\xbc",1.5]}}',
                  b'{"type":"noop","delay":3600,"payload":{"a":"1","b":[1.5,"\xc3\xbc"]}}'):  # fmt: skip
        check_problem(await client.post_bytes(other, idempotency_key=key), 422)


async def test_integers_beyond_the_exact_doubles_are_told_apart(client: Client) -> None:
    key = new_key()
    answers = [
        await client.post_bytes(b'{"type":"noop","delay":3600,"payload":{"n":%d}}' % number, idempotency_key=key)
        for number in (2**53, 2**53 + 1)
    ]
    assert answers[0].status_code == 202
    assert answers[1].status_code == 422


async def test_a_refused_request_leaves_no_record(client: Client) -> None:
    key = new_key()
    check_problem(await client.post({**PARKED, "priority": 10}, idempotency_key=key), 422)
    check_problem(await client.post({**PARKED, "type": "nop"}, idempotency_key=key), 422)
    check_problem(await client.post({**PARKED, "payload": {"a": "x" * 300_000}}, idempotency_key=key), 413)
    check_problem(await client.post_bytes(b"{", idempotency_key=key), 400)
    check_problem(await client.post_bytes(b"{}", idempotency_key=key, content_type="text/plain"), 415)
    accepted = await client.post(PARKED, idempotency_key=key)
    assert accepted.status_code == 202
    assert "idempotent-replayed" not in accepted.headers


async def test_keys_are_a_tenants_own(client: Client, other: Client) -> None:
    key = new_key()
    mine = await client.post({**PARKED, "payload": {"whose": "mine"}}, idempotency_key=key)
    theirs = await other.post({**PARKED, "payload": {"whose": "theirs"}}, idempotency_key=key)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["id"] != theirs.json()["id"]
    assert "idempotent-replayed" not in theirs.headers


@pytest.mark.parametrize("key", ["a", "~", "!#$%&'()*+-./:<=>?@[]^_`{|}", "x" * 255, "';DROP--", "<b>"])
async def test_every_visible_ascii_character_is_taken(client: Client, key: str) -> None:
    for form in (key, f'"{key}"'):
        assert (await client.post(PARKED, idempotency_key=form)).status_code == 202


BAD = {
    "empty": b"",
    "an empty string": b'""',
    "256": b"x" * 256,
    "256 in quotes": b'"' + b"x" * 256 + b'"',
    "a space": b"a b",
    "a space in quotes": b'"a b"',
    "a tab": b"a\tb",
    "UTF-8": "ü".encode(),
    "Latin-1": b"\xfc",
    "an open quote": b'"abc',
    "a parameter": b'"abc";p=1',
}


@pytest.mark.parametrize("key", BAD.values(), ids=BAD.keys())
async def test_anything_else_is_400(client: Client, key: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"idempotency-key", key)]
    check_problem(await client.http.post("/jobs", content=json.dumps(PARKED), headers=headers), 400)


async def test_two_keys_are_400(client: Client) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "b"), ("content-type", "application/json")]
    check_problem(await client.http.post("/jobs", content=json.dumps(PARKED), headers=headers), 400)


@pytest.fixture(scope="module")
async def strict(database_server, database_template) -> AsyncIterator[Client]:  # type: ignore[no-untyped-def]
    """`accepted dev` that wants a key with everything, and remembers it for a second."""
    name = f"strict_{uuid4().hex}"
    url = database_server.create_database(name, template=database_template)
    env = {"ACCEPTED_IDEMPOTENCY_KEY": "required", "ACCEPTED_IDEMPOTENCY_TTL": str(TTL)}
    async with serving(url, env, dev=True) as running:
        client = running.client()
        await types_known(client)
        yield client
    database_server.drop_database(name)


async def test_a_missing_key_is_400_where_one_is_required(strict: Client) -> None:
    check_problem(await strict.post(PARKED), 400)
    assert (await strict.post(PARKED, idempotency_key=new_key())).status_code == 202


async def test_a_key_makes_a_new_job_once_it_is_forgotten(strict: Client) -> None:
    key = new_key()
    first = (await strict.post(PARKED, idempotency_key=key)).json()["id"]

    async def another() -> bool:
        answer = await strict.post(PARKED, idempotency_key=key)
        assert answer.status_code == 202
        return answer.json()["id"] != first and "idempotent-replayed" not in answer.headers

    await until(another, 20, "a second job", interval=0.1)


async def test_a_forgotten_key_takes_another_body_and_a_hundred_at_once_still_make_one_job(strict: Client) -> None:
    key = new_key()
    await strict.post(PARKED, idempotency_key=key)

    async def taken() -> bool:
        return (await strict.post({**PARKED, "priority": 7}, idempotency_key=key)).status_code == 202

    await until(taken, 20, "another body", interval=0.1)

    rounds = 0

    async def free() -> bool:
        """Forgotten again: of many at once with a new body one is the first, and the others get its job."""
        nonlocal rounds
        rounds += 1
        body, began = {**PARKED, "tags": [f"round {rounds}"]}, time.monotonic()
        answers = await asyncio.gather(*(strict.post(body, idempotency_key=key) for _ in range(30)))
        if time.monotonic() - began > TTL:
            return False  # on so busy a machine it may have been forgotten once more between them
        accepted = [answer for answer in answers if answer.status_code == 202]
        new = [answer for answer in accepted if "idempotent-replayed" not in answer.headers]
        assert len({answer.json()["id"] for answer in accepted}) == len(new) <= 1
        return len(accepted) > 1

    await until(free, 20, "one job by many", interval=0.1)
