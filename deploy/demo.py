"""`make demo`: boots the service and shows over real HTTP what it promises.

`accepted dev` runs as a child process on a free port, with a data directory that is thrown away afterwards. Each
thing shown is checked; the exit code is 0 only if all of it was seen, else 1, with a list of what was not.
"""

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from standardwebhooks import Webhook, WebhookVerificationError

LOOPBACK = "127.0.0.1"

READY_WITHIN = 60.0  # seconds; five on an idle machine, most of them for making the PostgreSQL data directory
STOP_WITHIN = 20.0
PATIENCE = 15  # seconds for anything that a job or a webhook is waited for


class Receiver:
    """A local HTTP server: the target of `http.request` and the receiver of webhooks. Answers 200 to everything."""

    def __init__(self) -> None:
        calls: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                calls.put((self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"thank you")

            def log_message(self, *_: object) -> None:
                """The narration is the log."""

        server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://{LOOPBACK}:{server.server_port}"
        self._calls = calls

    def next_call(self) -> tuple[str, dict[str, str], bytes]:
        """Path, headers and body of the next call, in the order of arrival. Raises `queue.Empty` when none comes."""
        return self._calls.get(timeout=PATIENCE)


class Service:
    """`accepted dev` as a child in a session of its own, so that Ctrl-C reaches it through us and not beside us."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="accepted-demo-"))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server((LOOPBACK, 0)) as probe:
            self._port = str(probe.getsockname()[1])
        self.url = f"http://{LOOPBACK}:{self._port}"

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("accepted")), "dev", "--port", self._port, "--data-dir", "data"]
        # None of the caller's settings; and the receiver's address is not public, so the worker has to be allowed it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCEPTED_")}
        environment["ACCEPTED_EGRESS_ALLOW"] = "127.0.0.0/8"
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self._home, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, client: httpx.Client) -> bool:
        """Wait until the worker has registered its types; False when the service ends or takes too long."""
        assert self._process is not None
        deadline = time.monotonic() + READY_WITHIN
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if client.get("/job-types").json().get("items"):
                    return True
            time.sleep(0.1)
        return False

    def stop(self) -> int | None:
        """SIGTERM; the exit code, None if it does not end."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            return None

    def log(self) -> str:
        """The end of what it wrote."""
        return "\n".join((self._home / "log").read_text(errors="replace").splitlines()[-20:])

    def remove(self) -> None:
        """Leave nothing behind, whatever state it is in: not the process, not its PostgreSQL, not its data."""
        if self._process is not None and self.stop() is None:
            self._process.kill()
            self._process.wait()
        _stop_postgres(self._home / "data" / "postgres" / "postmaster.pid")
        shutil.rmtree(self._home, ignore_errors=True)


class Stage:
    """What the scenes share: the actors, the job they speak of, and the record of what was seen and what was not."""

    def __init__(self, console: Console, client: httpx.Client, service: Service) -> None:
        self.client = client
        self.receiver = Receiver()
        self.service = service
        self.job: dict[str, Any] = {}
        self.seen: list[str] = []
        self.unseen: list[str] = []
        self._console = console

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Padding(Text(text, style), (0, 0, 0, 4), expand=False))

    def see(self, what: str, is_so: object) -> None:
        """Record whether `what` was seen."""
        (self.seen if is_so else self.unseen).append(what)
        mark = ("ok", "green") if is_so else ("NOT SEEN", "bold red")
        self._console.print("  ", Text.assemble(mark, " ", what), sep="")

    def play(self, scene: "Callable[[Stage], None]") -> None:
        """Run a scene under its docstring; one that breaks down is something that was not seen."""
        self._console.print(f"\n[bold cyan]{scene.__doc__}[/]")
        try:
            scene(self)
        except Exception as error:
            self.see(f"{scene.__doc__} ({type(error).__name__}: {error})", False)

    def submit(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        self.say(f"POST /jobs {json.dumps(body)}", "dim")
        answer = self.client.post("/jobs", json=body, headers=headers)
        answer.raise_for_status()
        return answer

    def finish(self, body: dict[str, Any]) -> dict[str, Any]:
        """Submit a job and tell its events until it is finished; the job as it is then."""
        path = str(self.submit(body).headers["Location"])
        with self.client.stream("GET", f"{path}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    self.say(f"{event['status']}, attempt {event['attempt']}")
        return dict(self.client.get(path).json())


def accept(stage: Stage) -> None:
    """A job is accepted: 202 once it is committed, with where to look and when"""
    answer = stage.submit({"type": "sleep", "payload": {"seconds": 2}}, **{"Idempotency-Key": "order-1234"})
    stage.job = answer.json()
    for name in ("Location", "Operation-Location", "Link", "Retry-After"):
        stage.say(f"{name}: {answer.headers[name]}")
    stage.see("202 Accepted", answer.status_code == 202)
    stage.see("the headers name the job", answer.headers["Location"] == f"/jobs/{stage.job['id']}")


def replay(stage: Stage) -> None:
    """The client never heard that answer and sends again: the same key is the same job"""
    answer = stage.submit({"payload": {"seconds": 2.0}, "type": "sleep"}, **{"Idempotency-Key": "order-1234"})
    stage.see("202 with the same id", (answer.status_code, answer.json()["id"]) == (202, stage.job["id"]))
    stage.see("Idempotent-Replayed: true", answer.headers.get("Idempotent-Replayed") == "true")


def poll(stage: Stage) -> None:
    """Polling: each GET waits until the ETag that it was given no longer holds"""
    path, etag, statuses = f"/jobs/{stage.job['id']}", '"none yet"', ["unknown"]
    while statuses[-1] in ("unknown", "queued", "running"):
        answer = stage.client.get(path, params={"wait": PATIENCE}, headers={"If-None-Match": etag})
        etag = answer.headers["ETag"]
        statuses.append(answer.json()["status"])
        stage.say(f"GET /jobs/{{id}}?wait={PATIENCE}  {statuses[-1]:<10}ETag: {etag}")
    again = stage.client.get(path, headers={"If-None-Match": etag})
    stage.see("it went from running to succeeded", statuses[-2:] == ["running", "succeeded"])
    stage.see("304 Not Modified for the ETag that still holds", again.status_code == 304)


def call(stage: Stage) -> None:
    """http.request: a job that calls a URL, here that of a local receiver"""
    payload = {"method": "POST", "url": stage.receiver.url + "/orders", "json": {"order": 1234}}
    job = stage.finish({"type": "http.request", "payload": payload})
    path, _, body = stage.receiver.next_call()
    stage.see("the receiver was sent the JSON", (path, body) == ("/orders", b'{"order":1234}'))
    stage.see("its answer is the job's result", (job["result"] or {}).get("body") == "thank you")


def retry(stage: Stage) -> None:
    """A job that fails once is tried again, when its schedule says so"""
    job = stage.finish({"type": "sleep", "payload": {"fail_attempts": 1, "seconds": 0}, "retry": {"schedule": [0.5]}})
    attempts = stage.client.get(f"/jobs/{job['id']}/attempts").json()["items"]
    for one in attempts:
        stage.say(f"attempt {one['attempt']}: {one['outcome']}  {(one['error'] or {}).get('message', '')}".rstrip())
    stage.see("two attempts: transient, then succeeded", [a["outcome"] for a in attempts] == ["transient", "succeeded"])
    stage.see("the job has succeeded", job["status"] == "succeeded")


def fail(stage: Stage) -> None:
    """A job that fails for good: a dead letter, which says why"""
    asked = {"type": "sleep", "payload": {"fail_attempts": 9, "seconds": 0}}
    asked |= {"retry": {"max_attempts": 2, "schedule": [0.3]}, "callback_url": stage.receiver.url + "/webhooks"}
    stage.job = job = stage.finish(asked)
    stage.say(f"error: {json.dumps(job['error'])}")
    stage.see("failed after 2 attempts", (job["status"], job["attempt"]) == ("failed", 2))
    stage.see("its error has a class and a message", job["error"]["class"] == "transient" and job["error"]["message"])


def hear(stage: Stage) -> None:
    """The webhook of that end, verified by the reference library of Standard Webhooks"""
    _, headers, body = stage.receiver.next_call()
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        stage.say(f"{name}: {headers[name]}")
    library = Webhook(stage.client.get("/webhook-secret").json()["secret"])
    event = library.verify(body, headers)
    told = (event["type"], event["data"]["id"])
    stage.see("verified: job.failed, of this job", told == ("job.failed", stage.job["id"]))
    try:
        library.verify(body.replace(b'"status":"failed"', b'"status":"succeeded"'), headers)
        refusal = None
    except WebhookVerificationError as error:
        refusal = error
    stage.see(f"a copy with another status is refused: {refusal}", refusal)


def stop(stage: Stage) -> None:
    """SIGTERM: the service stops cleanly"""
    stage.see("exit code 0", stage.service.stop() == 0)


SCENES = (accept, replay, poll, call, retry, fail, hear, stop)


def main() -> int:
    """Play every scene; the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console, began = Console(highlight=False), time.monotonic()
    console.print("[bold]Accepted[/]: booting API, worker, scheduler and an embedded PostgreSQL ...")
    try:
        with _running() as service, httpx.Client(base_url=service.url, timeout=PATIENCE + 5, trust_env=False) as client:
            if not service.wait_ready(client):
                console.print(f"the service did not come up:\n{service.log()}", markup=False)
                return 1
            stage = Stage(console, client, service)
            stage.say(f"up at {service.url} after {time.monotonic() - began:.1f} s")
            for scene in SCENES:
                stage.play(scene)
            return _verdict(console, stage, time.monotonic() - began)
    except KeyboardInterrupt:
        console.print("\ninterrupted; the service is stopped")
        return 130


def _verdict(console: Console, stage: Stage, seconds: float) -> int:
    if not stage.unseen:
        console.print(f"\n[bold green]All {len(stage.seen)} things were seen, in {seconds:.1f} s.[/]")
        return 0
    listed = "\n  - ".join(stage.unseen)
    console.print(f"\nNot seen:\n  - {listed}\n\nThe end of the service's log:\n{stage.service.log()}", markup=False)
    return 1


@contextlib.contextmanager
def _running() -> Iterator[Service]:
    service = Service()
    try:
        service.start()
        yield service
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # nothing keeps us from cleaning up
            signal.signal(number, signal.SIG_IGN)
        service.remove()


def _stop_postgres(pid_file: Path) -> None:
    """Stop the embedded server if it has outlived the service; its data goes anyway, so at once."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        for _ in range(100):
            if pid_file.exists():
                time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
