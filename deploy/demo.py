"""`make demo`: starts the service and shows over real HTTP what it promises.

`accepted dev` runs as a child process on a free port, with a temporary data directory. Each thing that is shown is also
checked. The exit code is 0 if every check passed, else 1, with a list of those that failed.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import httpx
from rich.console import Console
from standardwebhooks import Webhook, WebhookVerificationError

import accepted.transaction
from deploy.demo_stage import PATIENCE, Service, Stage


def accept(stage: Stage) -> None:
    """A job is accepted: 202 once it is committed, with headers that say where and when to look"""
    answer = stage.submit({"type": "sleep", "payload": {"seconds": 2}}, **{"Idempotency-Key": "order-1234"})
    stage.job = answer.json()
    for name in ("Location", "Operation-Location", "Link", "Retry-After"):
        stage.say(f"{name}: {answer.headers[name]}")
    stage.see("202 Accepted", answer.status_code == 202)
    stage.see("the headers name the job", answer.headers["Location"] == f"/jobs/{stage.job['id']}")


def replay(stage: Stage) -> None:
    """The client missed that answer and sends again: the same key gives the same job"""
    answer = stage.submit({"payload": {"seconds": 2.0}, "type": "sleep"}, **{"Idempotency-Key": "order-1234"})
    stage.see("202 with the same id", (answer.status_code, answer.json()["id"]) == (202, stage.job["id"]))
    stage.see("Idempotent-Replayed: true", answer.headers.get("Idempotent-Replayed") == "true")


def poll(stage: Stage) -> None:
    """Polling: each GET waits until the given ETag no longer holds"""
    path, etag, statuses = f"/jobs/{stage.job['id']}", '"none yet"', ["unknown"]
    while statuses[-1] in ("unknown", "queued", "running"):
        answer = stage.client.get(path, params={"wait": PATIENCE}, headers={"If-None-Match": etag})
        etag = answer.headers["ETag"]
        statuses.append(answer.json()["status"])
        stage.say(f"GET /jobs/{{id}}?wait={PATIENCE}  {statuses[-1]:<10}ETag: {etag}")
    again = stage.client.get(path, headers={"If-None-Match": etag})
    stage.see("it went from running to succeeded", statuses[-2:] == ["running", "succeeded"])
    stage.see("304 Not Modified for an ETag that still holds", again.status_code == 304)


def call(stage: Stage) -> None:
    """http.request: a job that calls a URL, here the URL of a local receiver"""
    payload = {"method": "POST", "url": stage.receiver.url + "/orders", "json": {"order": 1234}}
    job = stage.finish({"type": "http.request", "payload": payload})
    path, _, body = stage.receiver.next_call()
    stage.see("the receiver got the JSON", (path, body) == ("/orders", b'{"order":1234}'))
    stage.see("its answer is the job's result", (job["result"] or {}).get("body") == "thank you")


def retry(stage: Stage) -> None:
    """A job that fails once is retried on its schedule"""
    job = stage.finish({"type": "sleep", "payload": {"fail_attempts": 1, "seconds": 0}, "retry": {"schedule": [0.5]}})
    attempts = stage.client.get(f"/jobs/{job['id']}/attempts").json()["items"]
    for one in attempts:
        stage.say(f"attempt {one['attempt']}: {one['outcome']}  {(one['error'] or {}).get('message', '')}".rstrip())
    stage.see("two attempts: transient, then succeeded", [a["outcome"] for a in attempts] == ["transient", "succeeded"])
    stage.see("the job has succeeded", job["status"] == "succeeded")


def fail(stage: Stage) -> None:
    """A job that fails on its last attempt becomes a dead letter, with its error"""
    body = {"type": "sleep", "payload": {"fail_attempts": 9, "seconds": 0}}
    body |= {"retry": {"max_attempts": 2, "schedule": [0.3]}, "callback_url": stage.receiver.url + "/webhooks"}
    stage.job = job = stage.finish(body)
    stage.say(f"error: {json.dumps(job['error'])}")
    stage.see("failed after 2 attempts", (job["status"], job["attempt"]) == ("failed", 2))
    stage.see("its error has a class and a message", job["error"]["class"] == "transient" and job["error"]["message"])


def webhook(stage: Stage) -> None:
    """The webhook about that failure, verified by the reference library of Standard Webhooks"""
    _, headers, body = stage.receiver.next_call()
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        stage.say(f"{name}: {headers[name]}")
    library = Webhook(stage.client.get("/webhook-secret").json()["secret"])
    event = library.verify(body, headers)
    received = (event["type"], event["data"]["id"])
    stage.see("verified: job.failed, of this job", received == ("job.failed", stage.job["id"]))
    try:
        library.verify(body.replace(b'"status":"failed"', b'"status":"succeeded"'), headers)
        refusal = None
    except WebhookVerificationError as error:
        refusal = error
    stage.see(f"a copy with another status is refused: {refusal}", refusal)


def replay_dead_letter(stage: Stage) -> None:
    """The dead letter is found, replayed with another payload, and succeeds"""
    letters = stage.client.get("/dead-letters").json()["items"]
    for one in letters:
        stage.say(f"GET /dead-letters  {one['type']} {one['class']}: {one['message']}")
    stage.see("it is listed", [one["job_id"] for one in letters] == [stage.job["id"]])
    stage.client.post(f"/dead-letters/{stage.job['id']}/replay", json={"payload": {"seconds": 0}}).raise_for_status()
    job = stage.wait(stage.job["id"], "succeeded")
    stage.see("replayed with another payload: succeeded on attempt 3", job["attempt"] == 3)
    stage.see("no dead letter is left", stage.client.get("/dead-letters").json()["items"] == [])


def cancel(stage: Stage) -> None:
    """A running job is cancelled"""
    job_id = stage.submit({"type": "sleep", "payload": {"seconds": 600}}).json()["id"]
    stage.wait(job_id, "running")
    answer, asked = stage.client.post(f"/jobs/{job_id}/cancel"), time.monotonic()
    stage.say(f"POST /jobs/{{id}}/cancel  {answer.status_code}")
    stage.wait(job_id, "cancelled")
    stage.see("cancelled within 2 s", time.monotonic() - asked < 2)


def transaction(stage: Stage) -> None:
    """An application submits in its own transaction: the job is there if, and only if, the order is"""
    committed, rolled_back = asyncio.run(_two_orders(stage.service.ledger()))
    stage.say("BEGIN; INSERT INTO orders …; SELECT accepted.submit('sleep', …); COMMIT, then the same and ROLLBACK")
    stage.see("committed: the job has succeeded", stage.wait(committed, "succeeded")["status"] == "succeeded")
    stage.see("rolled back: there is no such job", stage.client.get(f"/jobs/{rolled_back}").status_code == 404)


def stop(stage: Stage) -> None:
    """SIGTERM: the service stops cleanly"""
    stage.see("exit code 0", stage.service.stop() == 0)


WHERE_TO_GO = """
See it for yourself: `.venv/bin/accepted dev`, then
  http://127.0.0.1:8000/      the dashboard
  http://127.0.0.1:8000/docs  every operation of the API
  examples/shop/README.md     an application that submits in its own transaction
  docs/README.md              all pages"""

SCENES = (accept, replay, poll, call, retry, fail, webhook, replay_dead_letter, cancel, transaction, stop)


def main() -> int:
    """Play every scene; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console, began = Console(highlight=False), time.monotonic()
    console.print("[bold]Accepted[/]: starting API, worker, scheduler and an embedded PostgreSQL ...")
    try:
        with _running() as service, httpx.Client(base_url=service.url, timeout=PATIENCE + 5, trust_env=False) as client:
            if not service.wait_ready(client):
                console.print(f"the service did not start:\n{service.log()}", markup=False)
                return 1
            stage = Stage(console, client, service)
            stage.say(f"up at {service.url} after {time.monotonic() - began:.1f} s")
            for scene in SCENES:
                stage.play(scene)
            return _verdict(console, stage, time.monotonic() - began)
    except KeyboardInterrupt:
        console.print("\ninterrupted; the service is stopped")
        return 130


async def _two_orders(ledger: dict[str, Any]) -> list[str]:
    """The ids of the jobs of two orders: one that is committed, and one that is rolled back."""
    conn, ids = await asyncpg.connect(**ledger), []
    await conn.execute("CREATE TABLE orders (number int)")
    for number, end in enumerate(("COMMIT", "ROLLBACK")):
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO orders VALUES ($1)", number)
        ids.append(str(await accepted.transaction.submit(conn, "sleep", {"seconds": 0})))
        await conn.execute(end)
    await conn.close()
    return ids


def _verdict(console: Console, stage: Stage, seconds: float) -> int:
    if not stage.unseen:
        console.print(f"\n[bold green]All {len(stage.seen)} checks passed, in {seconds:.1f} s.[/]")
        console.print(WHERE_TO_GO)
        return 0
    listed = "\n  - ".join(stage.unseen)
    console.print(f"\nFailed:\n  - {listed}\n\nThe end of the service's log:\n{stage.service.log()}", markup=False)
    return 1


@contextlib.contextmanager
def _running() -> Iterator[Service]:
    service = Service()
    try:
        service.start()
        yield service
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second signal must not interrupt the clean-up
            signal.signal(number, signal.SIG_IGN)
        service.remove()


if __name__ == "__main__":
    sys.exit(main())
