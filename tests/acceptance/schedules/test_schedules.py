"""Schedules, over HTTP and at a terminal. What is due is made due in the ledger, rather than waited for."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.clients.client import PATIENCE, TIME, Client, check_job, check_problem
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import Running, accepted
from tests.support.waiting import until

NOOP = {"type": "noop"}
EVERY_MINUTE = {"cron": "* * * * *", "job": NOOP}
VIEW = {
    "name", "cron", "timezone", "job", "on_missed", "overlap", "spread_over", "enabled", "next_runs", "created_at",
    "updated_at", "links",
}  # fmt: skip
RUN = {"scheduled_at", "fired_at", "outcome", "reason", "job_id", "job_status"}


@pytest.fixture
def name() -> str:
    return f"s-{uuid4().hex[:12]}"


async def put(client: Client, name: str, **body: Any) -> httpx.Response:
    return await client.http.put(f"/schedules/{name}", json=EVERY_MINUTE | body)


async def preview(client: Client, **body: Any) -> httpx.Response:
    return await client.http.post("/schedules/preview", json=body)


async def runs(client: Client, name: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/schedules/{name}/runs")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    assert all(set(run) == RUN for run in found)
    return found


async def test_a_schedule_is_made_replaced_and_deleted(client: Client, name: str) -> None:
    made = await put(client, name)
    assert (made.status_code, made.headers["location"]) == (201, f"/schedules/{name}")
    first = made.json()
    assert set(first) == VIEW
    assert (first["name"], first["cron"], first["timezone"], first["job"]) == (name, "* * * * *", "UTC", NOOP)
    assert (first["on_missed"], first["overlap"], first["spread_over"], first["enabled"]) == ("skip", "allow", 0, True)
    assert all(TIME.fullmatch(moment) for moment in [*first["next_runs"], first["created_at"], first["updated_at"]])
    begin = datetime.fromisoformat(first["next_runs"][0])
    assert timedelta(0) < begin - datetime.now(UTC) <= timedelta(minutes=1)
    assert first["next_runs"] == [f"{begin + n * timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}" for n in range(5)]

    job = {"type": "sleep", "payload": {"seconds": 1}, "tags": ["nightly"], "priority": 9}
    replaced = await put(
        client, name, cron="30 2 * * *", timezone="Europe/Berlin", job=job, on_missed="run_once", overlap="skip",
        spread_over=60.5,
    )  # fmt: skip
    assert replaced.status_code == 200
    assert replaced.json() == (await client.get(f"/schedules/{name}")).json()
    second = replaced.json()
    assert (second["job"], second["spread_over"], second["on_missed"]) == (job, 60.5, "run_once")
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]
    assert len(second["next_runs"]) == 5

    assert (await client.http.delete(f"/schedules/{name}")).status_code == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/runs"), ("POST", "/trigger")):
        check_problem(await client.http.request(method, f"/schedules/{name}{path}"), 404)


async def test_what_is_due_fires_and_its_run_is_listed(
    client: Client, name: str, new_database: str, database_server: DatabaseServer
) -> None:
    await put(client, name, job={"type": "noop", "tags": [name], "metadata": {"a": "b"}})
    make_due(database_server, new_database, name)
    run = await until(lambda: _first_run(client, name), PATIENCE, "the run", interval=0.1)
    assert (run["outcome"], run["reason"]) == ("fired", None)
    job = await client.finished(run["job_id"])
    check_job(job)
    assert (job["status"], job["tags"], job["metadata"], job["parent_id"]) == ("succeeded", [name], {"a": "b"}, None)
    (listed,) = await runs(client, name)
    assert listed["job_status"] == "succeeded"
    assert listed["scheduled_at"] <= listed["fired_at"]


async def test_a_schedule_that_rests_has_no_next_runs(client: Client, name: str) -> None:
    assert (await put(client, name, enabled=False)).json()["next_runs"] == []
    assert len((await put(client, name, enabled=True)).json()["next_runs"]) == 5


async def test_trigger_submits_its_job_now(client: Client, name: str) -> None:
    await put(client, name, enabled=False, cron="0 0 1 1 *", job={"type": "noop", "queue": "triggered"})
    answer = await client.http.post(f"/schedules/{name}/trigger")
    assert answer.status_code == 202
    job = answer.json()
    check_job(job)
    assert answer.headers["location"] == answer.headers["operation-location"] == f"/jobs/{job['id']}"
    assert (await client.finished(job["id"]))["queue"] == "triggered"
    again = (await client.http.post(f"/schedules/{name}/trigger")).json()
    assert again["id"] != job["id"]
    assert [(run["outcome"], run["job_id"]) for run in await runs(client, name)] == [
        ("triggered", again["id"]),
        ("triggered", job["id"]),
    ]


async def test_lists_come_in_pages(client: Client, name: str) -> None:
    names = [f"{name}.{number}" for number in range(3)]
    for one in names:
        await put(client, one)
        for _ in range(3):
            await client.http.post(f"/schedules/{names[0]}/trigger")
    for path, key, wanted in (
        ("/schedules", "name", names),
        (f"/schedules/{names[0]}/runs", "scheduled_at", [run["scheduled_at"] for run in await runs(client, names[0])]),
    ):
        found: list[str] = []
        next_: str | None = f"{path}?limit=2"
        while next_ is not None:
            page = await client.get(next_)
            assert len(page.json()["items"]) <= 2
            found += [item[key] for item in page.json()["items"]]
            next_ = page.links.get("next", {}).get("url")
        assert [one for one in found if one in wanted] == wanted
        assert len(found) == len(set(found))
        for wrong in ("nonsense", "AAAA"):
            check_problem(await client.get(f"{path}?cursor={wrong}"), 422, "/cursor")
        check_problem(await client.get(f"{path}?limit=0"), 422, "/limit")
        check_problem(await client.get(f"{path}?limt=1"), 422, "/limt")


async def test_another_tenants_schedules_are_not_there(client: Client, other: Client, name: str) -> None:
    await put(client, name)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/runs"), ("POST", "/trigger")):
        check_problem(await other.http.request(method, f"/schedules/{name}{path}"), 404)
    assert (await put(other, name)).status_code == 201, "a name is a tenant's own"
    assert (await client.get(f"/schedules/{name}")).status_code == 200
    assert name not in [one["name"] for one in (await other.get("/schedules?limit=1")).json()["items"][1:]]


async def test_scopes(trio: Running, keys: Mapping[str, str], client: Client, anonymous: Client, name: str) -> None:
    await put(client, name)
    reader, writer = trio.client(keys["reader"]), trio.client(keys["writer"])
    for who, method, path, status in (
        (reader, "GET", f"/schedules/{name}", 200),
        (reader, "GET", "/schedules", 200),
        (reader, "GET", f"/schedules/{name}/runs", 200),
        (reader, "PUT", f"/schedules/{name}", 403),
        (reader, "DELETE", f"/schedules/{name}", 403),
        (reader, "POST", f"/schedules/{name}/trigger", 403),
        (writer, "GET", f"/schedules/{name}", 403),
        (writer, "GET", "/schedules", 403),
        (writer, "GET", f"/schedules/{name}/runs", 403),
        (writer, "PUT", f"/schedules/{name}", 200),
        (writer, "POST", f"/schedules/{name}/trigger", 202),
        (anonymous, "GET", "/schedules", 401),
        (anonymous, "PUT", f"/schedules/{name}", 401),
    ):
        body = EVERY_MINUTE if method == "PUT" else None
        answer = await who.http.request(method, path, json=body)
        assert answer.status_code == status, (method, path)
    assert (await preview(reader, cron="* * * * *")).status_code == 200
    check_problem(await preview(writer, cron="* * * * *"), 403)


@pytest.mark.parametrize(
    ("body", "pointer", "says"),
    [
        ({"cron": "0 0 31 2 *"}, "/cron", "never fires"),
        ({"cron": "0 0 31 4 *", "timezone": "Europe/Berlin"}, "/cron", "never fires"),
        ({"cron": "0 0 0 * * *"}, "/cron", "five fields"),
        ({"cron": "61 * * * *"}, "/cron", "minute"),
        ({"cron": 5}, "/cron", "string"),
        ({"cron": "9" * 10_000}, "/cron", ""),
        ({"timezone": "Europe/Berlim"}, "/timezone", 'did you mean "Europe/Berlin"'),
        ({"timezone": "../../etc/passwd"}, "/timezone", "is not an IANA time zone"),
        ({"job": {"type": "nop"}}, "/job/type", 'did you mean "noop"'),
        ({"job": {"type": "sleep", "payload": {"seconds": "x"}}}, "/job/payload/seconds", ""),
        ({"job": {"type": "noop", "tag": []}}, "/job/tag", 'did you mean "tags"'),
        ({"job": {"type": "noop", "run_at": "2027-01-01T00:00:00Z"}}, "/job/run_at", "the schedule sets when"),
        ({"job": {"type": "noop", "delay": 5}}, "/job/delay", "the schedule sets when"),
        ({"job": {"type": "noop", "callback_url": "ftp://example.com"}}, "/job/callback_url", ""),
        ({"job": {}}, "/job/type", "required"),
        ({"job": []}, "/job", "object"),
        ({"on_missed": "never"}, "/on_missed", "run_once"),
        ({"overlap": None}, "/overlap", ""),
        ({"spread_over": -1}, "/spread_over", ""),
        ({"spread_over": "5"}, "/spread_over", ""),
        ({"enabled": "yes"}, "/enabled", ""),
        ({"spread": 1}, "/spread", 'did you mean "spread_over"'),
    ],
)
async def test_what_is_wrong_is_pointed_at(
    client: Client, name: str, body: dict[str, Any], pointer: str, says: str
) -> None:
    check_problem(await put(client, name, **body), 422, pointer, says)
    check_problem(await client.get(f"/schedules/{name}"), 404)


@pytest.mark.parametrize("wrong", ["Nightly", "-a", "a%00b", "ü", "a" * 65, "a%20b"])
async def test_names_are_as_those_of_queues(client: Client, wrong: str) -> None:
    check_problem(await client.http.put(f"/schedules/{wrong}", json=EVERY_MINUTE), 422, "/name")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/runs"), ("POST", "/trigger")):
        check_problem(await client.http.request(method, f"/schedules/{wrong}{path}"), 404)


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * */28 * 1#2"])
async def test_a_line_that_never_fires_is_refused_within_50_ms(client: Client, cron: str) -> None:
    """The fastest of a few: other tests keep the machine busy."""
    took = []
    for _ in range(8):
        begun = time.perf_counter()
        check_problem(await preview(client, cron=cron, timezone="America/New_York"), 422, "/cron", "never fires")
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.05


async def test_preview_shows_runs_and_warns_of_changes_of_the_clock(client: Client) -> None:
    answer = await preview(
        client, cron="30 2 * * *", timezone="America/New_York", after="2027-03-12T12:00:00Z", count=3
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "next_runs": ["2027-03-13T07:30:00Z", "2027-03-14T07:00:00Z", "2027-03-15T06:30:00Z"],
        "warnings": [
            "2027-03-14: the clock in America/New_York skips 02:30; it runs once, right after the gap, at 03:00",
        ],
    }
    assert len((await preview(client, cron="0 * * * *")).json()["next_runs"]) == 5
    assert (await preview(client, cron="0 * * * *")).json()["warnings"] == []
    rare = (await preview(client, cron="0 0 29 2 */7", count=100)).json()["next_runs"]
    assert [moment[:4] for moment in rare[:3]] == ["2032", "2060", "2088"]
    assert rare[-1] < "2227", "two centuries are looked through, and no more"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/cron"),
        ({"cron": "* * * * *", "count": 0}, "/count"),
        ({"cron": "* * * * *", "count": 101}, "/count"),
        ({"cron": "* * * * *", "after": "2027-01-01"}, "/after"),
        ({"cron": "* * * * *", "after": "9999-12-31T23:59:59Z"}, "/after"),
        ({"cron": "* * * * *", "after": "0001-01-01T00:00:00+14:00"}, "/after"),
        ({"cron": "* * * * *", "time_zone": "UTC"}, "/time_zone"),
    ],
)
async def test_what_is_wrong_in_a_preview(client: Client, body: dict[str, Any], pointer: str) -> None:
    check_problem(await preview(client, **body), 422, pointer)


@pytest.mark.timeout(240)
async def test_at_a_terminal(trio: Running, keys: Mapping[str, str], name: str) -> None:
    env = {**trio.env, "ACCEPTED_API_KEY": keys["hooks"]}
    berlin = ("--cron", "0 12 * * *", "--timezone", "Europe/Berlin")
    made = await accepted("schedules", "put", name, *berlin, "--job", "-", env=env, stdin=json.dumps(NOOP))
    assert made.code == 0, made.err
    listed = await accepted("schedules", env=env)
    block = listed.out[listed.out.index(name) :].splitlines()[:6]
    assert block[0].split() == [name, "0", "12", "*", "*", "*", "Europe/Berlin", "noop"]
    assert len(block) == 6
    assert all(" UTC " in line and ("12:00 CET" in line or "12:00 CEST" in line) for line in block[1:])
    shown = json.loads((await accepted("schedules", "--json", env=env)).out)
    assert name in [one["name"] for one in shown["items"]]
    job = json.loads((await accepted("schedules", "trigger", name, "--json", env=env)).out)
    assert job["id"] in (await accepted("schedules", "runs", name, env=env)).out
    tried = await accepted("schedules", "preview", "30 2 * * *", "--timezone", "Europe/Berlin", env=env)
    assert "the clock in Europe/Berlin skips 02:30" in tried.out
    assert (await accepted("schedules", "delete", name, env=env)).code == 0
    gone = await accepted("schedules", "get", name, env=env)
    assert gone.code == 1
    assert "404" in gone.err


def make_due(server: DatabaseServer, database_url: str, name: str) -> None:
    """A second ago, which is within the grace."""
    set_back = f"UPDATE schedules SET next_at = now() - interval '1 second' WHERE name = '{name}'"
    server.execute(set_back, database_url.rsplit("/", 1)[1])


async def _first_run(client: Client, name: str) -> dict[str, Any] | None:
    found = await runs(client, name)
    return found[-1] if found else None
