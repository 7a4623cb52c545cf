"""The commands for batches, deliveries and the audit, and what every client command has. Contract, section 1."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients.client import Client
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.running_service import Done, Running, accepted, make_keys

AWAY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
async def home(trio: Running, client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory whose `.env` names the service and a key of a tenant of its own."""
    path = tmp_path_factory.mktemp("home")
    (key,) = await make_keys(trio.env, ("terminal", "jobs:read,jobs:write,admin"))
    (path / ".env").write_text(f"ACCEPTED_URL={trio.url}\nACCEPTED_API_KEY={key}\n")
    return str(path)


async def said(home: str, *arguments: str, **options: Any) -> Any:
    done = await accepted(*arguments, "--json", env={"COLUMNS": "200"}, cwd=home, **options)
    assert done.code == 0, done
    return json.loads(done.out)


async def plain(home: str, *arguments: str, code: int = 0) -> Done:
    done = await accepted(*arguments, env={"COLUMNS": "200"}, cwd=home)
    assert done.code == code, done
    return done


async def test_a_submission_has_every_option_and_waits(home: str) -> None:
    async with Receiver() as receiver, Receiver(lambda _: Answer(404)) as missing:
        job, failed, refused = await asyncio.gather(
            said(
                home, "jobs", "submit", "noop", "{}", "--priority", "7", "--delay", "0.1", "--timeout", "9",
                "--callback-url", receiver.url, "--tag", "a", "--tag", "b", "--metadata", "order=7=8", "--wait",
            ),
            plain(home, "jobs", "submit", "http.request", json.dumps({"url": missing.url}), "--wait", code=1),
            plain(home, "jobs", "submit", "noop", "--metadata", "order", code=1),
        )  # fmt: skip
        assert (job["status"], job["priority"], job["tags"], job["metadata"]) == (
            "succeeded", 7, ["a", "b"], {"order": "7=8"},
        )  # fmt: skip
        assert failed.err.splitlines()[0] in failed.out
        assert "KEY=VALUE" in refused.err
        deliveries = await said(home, "deliveries", "list", "--job", job["id"])
    (delivery,) = deliveries["items"]
    assert delivery["id"] in (await plain(home, "deliveries", "list")).out
    assert (await plain(home, "deliveries", "redeliver", "x", code=1)).err.startswith("accepted: 404")


async def test_batches_at_a_terminal(home: str, tmp_path: Path) -> None:
    listed, lines, flow = tmp_path / "jobs.json", tmp_path / "jobs.ndjson", tmp_path / "flow.json"
    listed.write_text('[{"type": "noop"}, {"type": "noop"}]')
    lines.write_text('{"type": "noop", "delay": 3600}\n{"type": "noop", "delay": 3600}\n')
    flow.write_text('{"jobs": [{"type": "noop", "ref": "a"}, {"type": "noop", "ref": "b", "depends_on": ["a"]}]}')
    batch, delayed, workflow = await asyncio.gather(
        said(home, "batches", "submit", str(listed), "--spread-over", "0.2"),
        said(home, "batches", "submit", str(lines), "--idempotency-key", "k"),
        said(home, "batches", "submit", str(flow), "--workflow"),
    )
    watched, ended, shown = await asyncio.gather(
        said(home, "batches", "watch", batch["id"]),
        plain(home, "batches", "cancel", delayed["id"]),
        plain(home, "batches", "watch", workflow["id"]),
    )
    assert (watched["counts"], watched["finished"]) == ({"succeeded": 2}, True)
    assert delayed["id"] in ended.out
    assert "b  after a" in shown.out
    cancelled, wrong, missing = await asyncio.gather(
        plain(home, "batches", "watch", delayed["id"], code=1),
        plain(home, "batches", "submit", str(lines), "--workflow", code=1),
        plain(home, "batches", "submit", str(tmp_path / "none.json"), code=1),
    )
    assert "2 cancelled" in cancelled.out
    assert "a workflow is JSON" in wrong.err
    assert "none.json" in missing.err
    newest = await said(home, "batches", "list", "--limit", "2")
    rest = (await plain(home, "batches", "list", "--cursor", newest["next"])).out.splitlines()
    seen = [one["id"] for one in newest["items"]] + [line.split()[0] for line in rest]
    assert sorted(seen) == sorted(one["id"] for one in (batch, delayed, workflow))


async def test_keys_of_the_own_tenant_over_http(home: str, trio: Running) -> None:
    """Where no ledger is configured. No scope grows."""
    made, beyond, elsewhere = await asyncio.gather(
        said(home, "keys", "create", "--name", "ci", "--scopes", "jobs:read"),
        plain(home, "keys", "create", "--name", "x", "--scopes", "operator", code=1),
        plain(home, "keys", "create", "--name", "x", "--tenant", "acme", "--url", trio.url, code=1),
    )
    assert "lacks the scope operator" in beyond.err
    assert "of the tenant of the key that makes it" in elsewhere.err
    assert (await trio.client(made["key"]).get("/jobs")).status_code == 200
    revoked, shown = await said(home, "keys", "revoke", made["id"]), await plain(home, "keys", "list")
    assert revoked == {"revoked": made["id"]}
    assert [made["id"] in line for line in shown.out.splitlines() if "jobs:read " in line] == [True]
    assert made["key"] not in shown.out


async def test_options_come_before_the_environment_and_that_before_the_file(home: str, trio: Running) -> None:
    by_file, by_variable, by_option = await asyncio.gather(
        plain(home, "jobs", "list"),
        accepted("jobs", "list", env={"ACCEPTED_URL": AWAY}, cwd=home),
        accepted("jobs", "list", "--url", trio.url, env={"ACCEPTED_URL": AWAY}, cwd=home),
    )
    assert by_variable.code == 1
    assert AWAY in by_variable.err
    assert by_option.code == by_file.code == 0
    wrong = await accepted("jobs", "list", "--api-key", "acc_wrong", env={}, cwd=home)
    assert wrong.err.startswith("accepted: 401")


async def test_empty_lists_say_so_on_standard_error(home: str) -> None:
    commands = [
        ("jobs", "list", "--queue", "none"), ("dead-letters", "list", "--queue", "none"), ("schedules", "list"),
        ("targets", "list"), ("deliveries", "list", "--status", "expired"),
        ("audit", "--since", "2099-01-01T00:00:00Z"),
    ]  # fmt: skip
    for done in await asyncio.gather(*(plain(home, *command) for command in commands)):
        assert done.out == ""
        assert done.err.startswith("no ")


async def test_acts_on_the_ledger_name_the_user_of_the_system(home: str, trio: Running) -> None:
    limits = ("keys", "quota", "--tenant", "terminal", "--jobs", "500", "--json")
    quota = await accepted(*limits, env=trio.env)
    assert json.loads(quota.out)["jobs"] == 500
    with_both = trio.env | {"ACCEPTED_URL": AWAY}
    keys = json.loads((await accepted("keys", "list", "--json", env=with_both)).out)["items"]
    assert {"id", "tenant", "name", "scopes", "created_at", "revoked_at"} == set(keys[0])
    (act,) = (await said(home, "audit", "--action", "quota.changed"))["items"]
    after = {"jobs": 500, "per": 60.0}
    assert {"before": None, "after": after, "os_user": act["detail"].get("os_user")} == act["detail"]
    assert act["detail"]["os_user"]
    assert (act["tenant"], act["key"], act["address"]) == ("terminal", None, None)
    shown = (await plain(home, "audit")).out
    assert f"terminal/{act['detail']['os_user']} -  quota.changed terminal" in shown


async def test_the_shell_completes_commands() -> None:
    env = {"_ACCEPTED_COMPLETE": "complete_bash", "COMP_WORDS": "accepted de", "COMP_CWORD": "1"}
    assert {"dead-letters", "deliveries"} <= set((await accepted(env=env)).out.split())
