"""API keys, scopes and tenants. Contract, sections 1 and 4."""

import asyncio
import re

import httpx
import pytest

from tests.support.clients.client import Client, check_problem
from tests.support.service.running_service import Running, accepted
from tests.support.waiting import until

GUARDED = [
    ("POST", "/jobs"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{id}"),
    ("GET", "/jobs/{id}/attempts"),
    ("GET", "/jobs/{id}/events"),
    ("GET", "/job-types"),
    ("GET", "/webhook-secret"),
    ("POST", "/webhook-secret/rotate"),
    ("GET", "/webhook-deliveries"),
    ("POST", "/webhook-deliveries/{id}/redeliver"),
]
WRONG = {
    "none": None,
    "another scheme": b"Basic YWRtaW46YWRtaW4=",
    "no key": b"Bearer",
    "an unknown key": b"Bearer acc_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "not ours": b"Bearer x",
    "UTF-8": "Bearer acc_ü".encode(),
    "Latin-1": b"Bearer acc_\xfc",
    "a long one": b"Bearer acc_" + b"A" * 5000,
    "two": b"Bearer acc_a, Bearer acc_b",
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
async def test_401_without_a_valid_key(anonymous: Client, value: bytes | None) -> None:
    headers = [(b"authorization", value)] if value is not None else []
    bodies = set()
    for path in ("/jobs", "/jobs/01a20a5f-5eca-7433-9bac-af4993e68657", "/job-types"):
        answer = await anonymous.http.get(path, headers=headers)
        bodies.add(check_problem(answer, 401)["detail"])
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert len(bodies) == 1


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_401_everywhere(anonymous: Client, client: Client, method: str, path: str) -> None:
    job = await client.submit("noop", delay=3600)
    answer = await anonymous.http.request(method, path.format(id=job["id"]), json={"type": "noop"})
    check_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_answer_is_the_same_for_every_wrong_key(anonymous: Client) -> None:
    answers = [
        await anonymous.get("/jobs", headers={"authorization": f"Bearer {key}"})
        for key in ("acc_x", "acc_" + "A" * 43, "y")
    ]
    assert len({answer.text for answer in answers}) == 1


async def test_the_scheme_ignores_case(trio: Running, keys: dict[str, str], anonymous: Client) -> None:
    for scheme in ("bearer", "BEARER"):
        answer = await anonymous.get("/jobs?limit=1", headers={"authorization": f"{scheme} {keys['acme']}"})
        assert answer.status_code == 200  # RFC 9110, section 11.1


async def test_a_key_is_not_taken_from_elsewhere(keys: dict[str, str], anonymous: Client) -> None:
    for answer in (
        await anonymous.get(f"/jobs?access_token={keys['acme']}"),
        await anonymous.get("/jobs", headers={"x-api-key": keys["acme"]}),
        await anonymous.get("/jobs", headers={"cookie": f"authorization=Bearer {keys['acme']}"}),
    ):
        assert answer.status_code in (401, 422)


async def test_health_metrics_and_documents_need_no_key(anonymous: Client) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/problems/not-found"):
        assert (await anonymous.get(path)).status_code == 200, path


async def test_403_when_the_scope_is_missing(trio: Running, keys: dict[str, str], client: Client) -> None:
    job = await client.submit("noop", delay=3600)
    reader, writer = trio.client(keys["reader"]), trio.client(keys["writer"])

    for path in ("/jobs", f"/jobs/{job['id']}", f"/jobs/{job['id']}/attempts", "/job-types"):
        assert (await reader.get(path)).status_code == 200, path
    assert (await writer.post({"type": "noop", "delay": 3600})).status_code == 202

    check_problem(await reader.post({"type": "noop"}), 403)
    for path in ("/jobs", f"/jobs/{job['id']}", f"/jobs/{job['id']}/attempts", f"/jobs/{job['id']}/events"):
        check_problem(await writer.get(path), 403)
    for each in (reader, writer):
        check_problem(await each.get("/webhook-secret"), 403)
        check_problem(await each.http.post("/webhook-secret/rotate"), 403)


async def test_another_tenants_job_is_404_and_like_an_unknown_one(client: Client, other: Client) -> None:
    job = await client.submit("noop", queue="whose", tags=["whose"], delay=3600)
    unknown = job["id"][:-6] + "ffffff"
    for path in ("/jobs/{}", "/jobs/{}?wait=1", "/jobs/{}/attempts", "/jobs/{}/events"):
        foreign, missing = await other.get(path.format(job["id"])), await other.get(path.format(unknown))
        assert check_problem(foreign, 404)["detail"] == check_problem(missing, 404)["detail"]
        assert foreign.text.replace(job["id"], unknown) == missing.text
    tag = (await client.get(f"/jobs/{job['id']}")).headers["etag"]
    check_problem(await other.get(f"/jobs/{job['id']}", headers={"if-none-match": tag}), 404)
    for query in ("queue=whose", "tag=whose", "status=scheduled&queue=whose"):
        assert (await other.get(f"/jobs?{query}")).json()["items"] == []
        assert (await client.get(f"/jobs?{query}")).json()["items"]


async def test_keys_of_one_tenant_see_the_same_jobs(trio: Running, keys: dict[str, str], client: Client) -> None:
    id = (await trio.client(keys["writer"]).post({"type": "noop", "delay": 3600})).json()["id"]
    assert (await client.job(id))["id"] == id
    assert (await trio.client(keys["reader"]).job(id))["id"] == id


async def test_each_tenant_has_its_own_webhook_secret(client: Client, other: Client) -> None:
    mine, theirs = [(await each.get("/webhook-secret")).json()["secret"] for each in (client, other)]
    assert mine.startswith("whsec_")
    assert mine != theirs


async def test_a_key_is_made_listed_and_revoked(trio: Running, anonymous: Client) -> None:
    made = await accepted(
        "keys", "create", "--tenant", "brief", "--name", "short-lived", "--scopes", "jobs:read", env=trio.env
    )
    assert made.code == 0
    key = made.out.strip()
    assert key.startswith("acc_")
    (id,) = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", made.out + made.err)

    async def status() -> int:
        return (await anonymous.get("/jobs", headers={"authorization": f"Bearer {key}"})).status_code

    assert await status() == 200
    listed = await accepted("keys", "list", env={**trio.env, "COLUMNS": "200"})
    assert listed.code == 0
    assert id in listed.out
    assert "short-lived" in listed.out
    assert key not in listed.out
    assert (await accepted("keys", "revoke", id, env=trio.env)).code == 0

    async def refused() -> bool:
        return await status() == 401

    await until(refused, 12, "the revoked key to be refused", interval=0.2)


async def test_the_command_refuses_wrong_keys_in_one_line(trio: Running) -> None:
    elsewhere = trio.env | {"ACCEPTED_DATABASE_URL": trio.env["ACCEPTED_DATABASE_URL"] + "-not-there"}
    wrong_scope, unknown, *others = await asyncio.gather(
        accepted("keys", "create", "--tenant", "t", "--name", "n", "--scopes", "jobs:fly", env=trio.env),
        accepted("keys", "revoke", "01a20a5f-5eca-7433-9bac-af4993e68657", env=trio.env),
        accepted("keys", "create", "--tenant", "", "--name", "n", env=trio.env),
        accepted("keys", "create", "--tenant", "t", "--name", "a\nb", env=trio.env),
        accepted("keys", "create", "--tenant", "t", "--name", "n", "--scopes", ",", env=trio.env),
        accepted("keys", "list", env=elsewhere),
    )
    for other in others:
        assert other.code == 1
        assert len(other.err.splitlines()) == 1
    assert wrong_scope.code != 0
    assert "jobs:fly" in wrong_scope.err
    assert "jobs:read" in wrong_scope.err
    assert unknown.code != 0
    assert len(wrong_scope.err.splitlines()) == len(unknown.err.splitlines()) == 1


async def test_auth_off_is_refused_beyond_loopback(trio: Running) -> None:
    off = {**trio.env, "ACCEPTED_AUTH": "off"}
    api, everywhere, dev = await asyncio.gather(
        accepted("api", "--host", "0.0.0.0", "--port", "0", env=off),
        accepted("api", "--host", "::", "--port", "0", env=off),
        accepted("dev", "--host", "0.0.0.0", "--port", "0", env={**trio.env, "ACCEPTED_AUTH": ""} | off),
    )
    for done in (api, everywhere, dev):
        assert done.code not in (0, -9)
        assert done.out == ""
        (line,) = done.err.splitlines()
        assert "ACCEPTED_AUTH" in line
        assert "--insecure" in line


async def test_no_key_is_in_the_log(trio: Running, keys: dict[str, str], client: Client) -> None:
    await client.get("/jobs")
    log = "".join(service.log(100_000) for service in trio.services.values())
    assert not any(key in log for key in keys.values())
    assert not any(key[4:20] in log for key in keys.values())


async def test_the_answer_to_a_wrong_key_does_not_repeat_it(anonymous: Client) -> None:
    answer: httpx.Response = await anonymous.get("/jobs", headers={"authorization": "Bearer acc_CanaryKey"})
    assert "CanaryKey" not in answer.text
    assert "CanaryKey" not in str(answer.headers)
