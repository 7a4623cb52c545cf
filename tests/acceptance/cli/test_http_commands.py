"""The commands that call the HTTP API, and answers that are not from Accepted. Contract, section 1."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clients.client import Client, check_job
from tests.support.servers.ports import free_port
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.at_terminal import at_a_terminal
from tests.support.service.running_service import Running, accepted, make_keys


@pytest.fixture(scope="module")
def terminal(trio: Running, keys: dict[str, str], client: Client) -> dict[str, str]:
    return {"ACCEPTED_URL": trio.url, "ACCEPTED_API_KEY": keys["acme"], "COLUMNS": "200"}


async def test_jobs_at_a_terminal(terminal: dict[str, str], client: Client) -> None:
    submitted = await accepted(
        "jobs", "submit", "sleep", '{"seconds": 3}', "--queue", "cli", "--idempotency-key", str(uuid4()), "--json",
        env=terminal,
    )  # fmt: skip
    assert submitted.code == 0, submitted
    job = json.loads(submitted.out)
    check_job(job)
    assert (job["queue"], job["payload"]) == ("cli", {"seconds": 3})

    watch, plain, get, shown, listed, from_stdin, wrong = await asyncio.gather(
        accepted("jobs", "watch", job["id"], "--json", env=terminal),
        accepted("jobs", "watch", job["id"], env=terminal),
        accepted("jobs", "get", job["id"], "--json", env=terminal),
        accepted("jobs", "get", job["id"], env=terminal),
        accepted("jobs", "list", "--queue", "cli", "--json", env=terminal),
        accepted("jobs", "submit", "noop", "-", "--delay", "3600", "--json", env=terminal, stdin='{"from": "stdin"}'),
        accepted("jobs", "submit", "nop", env=terminal),
    )
    assert [done.code for done in (watch, plain, get, shown, listed, from_stdin)] == [0] * 6
    last = json.loads(watch.out.strip().splitlines()[-1])
    assert (last["id"], last["status"]) == (job["id"], "succeeded")
    assert "succeeded" in plain.out
    assert json.loads(get.out)["id"] == job["id"]
    assert job["id"] in shown.out
    assert job["id"] in [each["id"] for each in json.loads(listed.out)["items"]]
    delayed = json.loads(from_stdin.out)
    assert (delayed["payload"], delayed["status"]) == ({"from": "stdin"}, "scheduled")
    assert wrong.code not in (0, -9)
    assert '"noop"' in wrong.err
    assert "Traceback" not in wrong.err


async def test_the_log_of_a_job_at_a_terminal(terminal: dict[str, str], client: Client) -> None:
    job = await client.submit("talk.async", {"number": 7, "seconds": 3}, queue="q")
    followed, lines = await asyncio.gather(
        accepted("jobs", "logs", job["id"], "--follow", env=terminal),
        accepted("jobs", "logs", job["id"], "--follow", "--attempt", "1", "--json", env=terminal),
    )
    assert (followed.code, lines.code) == (0, 0), (followed, lines)
    assert (await client.job(job["id"]))["status"] == "succeeded"
    told = [json.loads(line)["message"] for line in lines.out.splitlines()]
    assert (told[0], told.count("turn 7"), told[-1]) == ("begins", 20, "ends")
    assert len(followed.out.splitlines()) == len(told)
    assert '#1 info     cart 7 logger="shop.cart" colour="red"' in followed.out
    assert not set("\0\x1b") & set(followed.out)
    whole, silent = await asyncio.gather(
        accepted("jobs", "logs", job["id"], "--json", env=terminal),
        accepted("jobs", "logs", (await client.finish("noop"))["id"], env=terminal),
    )
    assert [line["message"] for line in json.loads(whole.out)["items"]] == told
    assert silent.out == "nothing is logged\n"


async def test_dead_letters_at_a_terminal(terminal: dict[str, str], client: Client) -> None:
    queue = f"cli-{uuid4().hex[:8]}"
    fails = {"payload": {"seconds": 0, "fail_attempts": 1}, "retry": {"max_attempts": 1}, "queue": queue}
    one, two, three = [await client.finish("sleep", **fails) for _ in range(3)]

    async def said(*arguments: str) -> Any:
        done = await accepted("dead-letters", *arguments, "--json", env=terminal)
        assert done.code == 0, done
        return json.loads(done.out)

    listed, by_id, plain, grouped, dry, nothing, wrong = await asyncio.gather(
        said("list", "--queue", queue),
        said("list", one["id"], "--ids", f"{two['id']},", "--type", "sleep", "--class", "transient"),
        accepted("dead-letters", "list", "--queue", queue, env=terminal),
        said("list", "--queue", queue, "--group"),
        said("replay", "--queue", queue, "--dry-run"),
        said("discard", "--ids", ""),
        accepted("dead-letters", "discard", "--queue", queue, "--class", "bad", env=terminal),
    )
    assert [each["id"] for each in listed["items"]] == [three["id"], two["id"], one["id"]]
    assert {each["id"] for each in by_id["items"]} == {one["id"], two["id"]}
    assert all(each["id"] in plain.out for each in (one, two, three))
    assert [group["count"] for group in grouped["items"]] == [3]
    assert (dry, nothing) == ({"matched": 3, "replayed": 0}, {"matched": 0, "discarded": 0})
    assert wrong.code not in (0, -9)
    assert "/class" in wrong.err

    discarded = await said("discard", one["id"])
    replayed, retried, unknown, nowhere = await asyncio.gather(
        said("replay", two["id"], three["id"], "--before", "2999-01-01T00:00:00Z", "--spread-over", "1"),
        accepted("jobs", "retry", one["id"], "--json", env=terminal),
        accepted("dead-letters", "discard", one["id"], "--json", env=terminal),
        accepted("dead-letters", "list", str(uuid4()), env=terminal),
    )
    assert replayed == {"matched": 2, "replayed": 2}
    assert discarded == {"matched": 1, "discarded": 1}
    assert (unknown.code, json.loads(unknown.out)) == (1, {"matched": 0, "discarded": 0})
    assert (nowhere.code, nowhere.out) == (1, "")
    for refused in (unknown, nowhere):
        assert refused.err == "accepted: not found: 1 of 1 ids match no dead letter\n"
    assert json.loads(retried.out)["id"] == one["id"]
    for job in (one, two, three):
        assert (await client.finished(job["id"]))["status"] == "succeeded"


async def refusal(terminal: dict[str, str], *arguments: str) -> str:
    """The one line with which the command refuses."""
    done = await accepted("dead-letters", *arguments, env=terminal)
    assert (done.code, done.out) == (1, ""), done
    (line,) = done.err.splitlines()
    return line


async def test_an_empty_list_of_ids_is_not_everything(terminal: dict[str, str]) -> None:
    assert "--ids" in await refusal(terminal, "list", "--ids", "")


@pytest.mark.parametrize("deed", ["replay", "discard"])
async def test_a_terminal_asks_before_every_dead_letter_is_decided(
    trio: Running, terminal: dict[str, str], deed: str
) -> None:
    """A program is not asked: without a filter it means all, as in the API."""
    (key,) = await make_keys(trio.env, (f"all-{deed}", "jobs:read,jobs:write"))
    mine = trio.client(key)
    terminal = terminal | {"ACCEPTED_API_KEY": key}
    jobs = [await mine.finish("sleep", {"seconds": 0, "fail_attempts": 1}, retry={"max_attempts": 1}) for _ in range(2)]
    code, said = await at_a_terminal("n", "dead-letters", deed, env=terminal)
    assert (code, "every dead letter" in said) == (1, True), said
    assert len((await mine.get("/dead-letters")).json()["items"]) == 2
    code, said = await at_a_terminal("y", "dead-letters", deed, jobs[0]["id"], env=terminal)
    assert (code, "1 matched" in said, "every" in said) == (0, True, False), said
    done = await accepted("dead-letters", deed, env=terminal)
    assert (done.code, done.out.split(",")[0]) == (0, "1 matched"), done
    assert (await mine.get("/dead-letters")).json()["items"] == []


async def test_watch_ends_with_1_when_the_job_fails_and_an_unknown_job_is_an_error(
    terminal: dict[str, str], client: Client
) -> None:
    job = await client.finish("sleep", {"seconds": 0, "fail_attempts": 5}, retry={"max_attempts": 1})
    watch, unknown, refused, away = await asyncio.gather(
        accepted("jobs", "watch", job["id"], "--json", env=terminal),
        accepted("jobs", "get", str(uuid4()), env=terminal),
        accepted("jobs", "list", env={**terminal, "ACCEPTED_API_KEY": "acc_wrong"}),
        accepted("jobs", "list", env={**terminal, "ACCEPTED_URL": f"http://127.0.0.1:{free_port()}"}),
    )
    assert (watch.code, json.loads(watch.out.strip().splitlines()[-1])["status"]) == (1, "failed")
    for done in (unknown, refused, away):
        assert done.code not in (0, -9)
        assert "Traceback" not in done.err
        assert done.err.strip()


HTML = {"content-type": "text/html"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>a portal</html>", HTML),
        Answer(200, b"\xff{", JSON),
        Answer(200, b"[]", JSON),
        Answer(502, b"<html>", JSON),
        Answer(403, b'{"error": "no"}', JSON),
        Answer(403, b"[1]", JSON),
    ],
    ids=lambda answer: f"{answer.status} {answer.body!r}",
)
async def test_an_answer_of_another_server_is_one_line(answer: Answer) -> None:
    async with Receiver(lambda _: answer) as receiver:
        env = {"ACCEPTED_URL": receiver.url}
        commands = [("jobs", "get", "x"), ("jobs", "watch", "x", "--json"), ("queues", "list")]
        done = await asyncio.gather(*(accepted(*command, env=env) for command in commands))
    for each in done:
        assert (each.code, each.out) == (1, ""), each
        (line,) = each.err.splitlines()
        assert line.startswith("accepted: ")
        assert receiver.url in line or str(answer.status) in line
