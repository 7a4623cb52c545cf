"""A tenant with `admin`, beside another tenant: queues, webhook secrets and alerts that are not its own."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import standardwebhooks

from tests.support.clients.client import Client, check_problem
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import Running, accepted, make_keys, serving, types_known

MASTER = "whsec_Q2FuYXJ5U2VjcmV0Rm9yTWFueVRlbmFudHMh"

KEYS = {
    "a": ("a", "jobs:read,jobs:write,jobs:work,admin"),
    "only admin": ("a", "admin"),
    "queues of a": ("a", "queues:admin"),
    "secret of a": ("a", "webhooks:read"),
    "rotates for a": ("a", "webhooks:write"),
    "reads jobs of a": ("a", "jobs:read,jobs:write,jobs:work"),
    "b": ("b", "jobs:read,jobs:write,jobs:work,admin"),
    "default": ("default", "jobs:read,jobs:write,admin"),
    "operator": ("house", "operator,jobs:read"),
}


@dataclass(frozen=True)
class Shared:
    """A service with several tenants, and where its alerts go."""

    running: Running
    keys: Mapping[str, str]
    alerts: Receiver

    def __getitem__(self, name: str) -> Client:
        return self.running.client(self.keys[name])


@pytest.fixture(scope="module")
async def shared(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Shared]:
    name = f"shared_{uuid4().hex}"
    async with Receiver() as alerts:
        env = {
            "ACCEPTED_AUTH": "required",
            "ACCEPTED_WEBHOOK_SECRET": MASTER,
            "ACCEPTED_ALERT_URL": alerts.url,
        }
        async with serving(database_server.create_database(name, template=database_template), env) as running:
            keys = dict(zip(KEYS, await make_keys(running.env, *KEYS.values()), strict=True))
            await types_known(running.client(keys["a"]))
            yield Shared(running, keys, alerts)
    database_server.drop_database(name)


@pytest.fixture
def queue() -> str:
    return f"queue-{uuid4().hex[:8]}"


async def patch(client: Client, queue: str, **settings: Any) -> Any:
    return await client.http.patch(f"/queues/{queue}", json=settings)


def judged(call: Any, secret: str) -> bool:
    """Whether a receiver that has `secret` takes the call for genuine."""
    try:
        standardwebhooks.Webhook(secret).verify(call.body, dict(call.headers))
    except standardwebhooks.webhooks.WebhookVerificationError:
        return False
    return True


@pytest.mark.fault("F80", moment="another tenant's jobs wait on the queue, or may come to it")
async def test_an_admin_does_not_stop_everybody(shared: Shared, queue: str) -> None:
    waits = await shared["b"].submit("noop", queue=queue, delay=3600)
    for name in (queue, "default", "webhooks"):
        for key in ("a", "only admin", "queues of a"):
            problem = check_problem(await patch(shared[key], name, paused=True), 403)
            assert "operator" in problem["detail"]
            check_problem(await shared[key].http.delete(f"/queues/{name}"), 403)
    assert (await shared["b"].finish("noop", queue=queue))["status"] == "succeeded"
    assert (await shared["b"].finish("noop"))["status"] == "succeeded"
    assert (await shared["b"].job(waits["id"]))["status"] == "scheduled"


@pytest.mark.fault("F80", moment="a queue of one tenant")
async def test_a_tenant_sets_its_own_queues_and_nobody_elses(shared: Shared, queue: str) -> None:
    await shared["a"].submit("noop", queue=queue, delay=3600)
    assert (await patch(shared["queues of a"], queue, max_running=3)).json()["max_running"] == 3
    check_problem(await patch(shared["b"], queue, max_running=None), 403)
    await shared["b"].submit("noop", queue=queue, delay=3600)  # whoever comes to it later does not take it away
    assert (await patch(shared["only admin"], queue, paused=True)).json()["paused"] is True
    check_problem(await patch(shared["b"], queue, paused=False), 403)
    check_problem(await shared["b"].http.delete(f"/queues/{queue}"), 403)
    check_problem(await patch(shared["reads jobs of a"], queue, paused=False), 403)
    assert (await patch(shared["operator"], queue, paused=False)).json()["paused"] is False
    assert (await patch(shared["a"], queue, max_running=None)).status_code == 200, "an operator does not take it away"


@pytest.mark.fault("F80", moment="depths of a queue that tenants share")
async def test_an_admin_sees_its_own_jobs_alone(shared: Shared, queue: str) -> None:
    for name in ("a", "b", "b"):
        await shared[name].submit("noop", queue=queue, delay=3600)
    for name, seen, of in (("a", 1, "tenant"), ("b", 2, "tenant"), ("operator", 3, "all")):
        found = (await shared[name].get(f"/queues/{queue}")).json()
        assert (found["depth"]["scheduled"], found["depth_of"]) == (seen, of)
    assert (await patch(shared["operator"], queue, max_running=1)).status_code == 200


@pytest.mark.fault("F80", moment="its own webhook secret")
async def test_the_webhook_secret_has_scopes_of_its_own(shared: Shared) -> None:
    secret = (await shared["secret of a"].get("/webhook-secret")).json()["secret"]
    for name in ("reads jobs of a", "rotates for a", "queues of a", "operator"):
        check_problem(await shared[name].get("/webhook-secret"), 403)
    for name in ("secret of a", "reads jobs of a", "operator"):
        check_problem(await shared[name].http.post("/webhook-secret/rotate"), 403)
    assert (await shared["only admin"].get("/webhook-secret")).json()["secret"] == secret
    rotated = (await shared["rotates for a"].http.post("/webhook-secret/rotate")).json()
    assert (rotated["secret"] != secret, rotated["previous"]) == (True, [secret])
    assert (await shared["secret of a"].get("/webhook-deliveries")).status_code == 200
    for name in ("secret of a", "queues of a", "operator"):
        check_problem(await shared[name].post({"type": "noop"}), 403)


@pytest.mark.fault("F80", moment="one master secret, several tenants")
async def test_no_tenant_has_the_secret_of_another(shared: Shared) -> None:
    secrets = {}
    calls = {}
    for name in ("default", "a", "b"):  # `default` is delivered to before it asks for its secret
        async with Receiver() as receiver:
            await shared[name].submit("noop", callback_url=receiver.url)
            (first,) = await receiver.wait_for(1, 30)
            secrets[name] = (await shared[name].get("/webhook-secret")).json()
            await shared[name].submit("noop", callback_url=receiver.url)
            calls[name] = (await receiver.wait_for(2, 30))[1]
            assert name == "default" or judged(first, secrets[name]["secret"])
    assert MASTER not in str(secrets)
    assert len({each["secret"] for each in secrets.values()}) == 3
    for name, call in calls.items():
        assert [other for other in secrets if judged(call, secrets[other]["secret"])] == [name]
        assert not judged(call, MASTER)


@pytest.mark.fault("F80", moment="a dead letter")
async def test_alerts_are_signed_with_what_no_tenant_has(shared: Shared) -> None:
    await shared["a"].submit("http.request", {"url": "http://127.0.0.1:1/"}, retry={"max_attempts": 1})
    (alert, *_) = await shared.alerts.wait_for(1, 60)
    printed = await accepted("keys", "alert-secret", env=shared.running.env)
    assert printed.code == 0
    assert judged(alert, printed.out.strip())
    assert not judged(alert, MASTER)
    for name in ("a", "b", "default"):
        assert not judged(alert, (await shared[name].get("/webhook-secret")).json()["secret"])


@pytest.mark.fault("F80", moment="the name of a tenant")
async def test_no_key_is_made_for_the_tenant_of_alerts(shared: Shared) -> None:
    refused = await accepted(
        "keys", "create", "--tenant", "accepted:operator", "--name", "n", "--scopes", "admin", env=shared.running.env
    )
    assert (refused.code, refused.out) == (1, "")
    assert "accepted:" in refused.err
