"""What the scenes of the demo share: a receiver of calls, the service as a child process, and the list of checks."""

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
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

LOOPBACK = "127.0.0.1"

READY_WITHIN = 60.0  # seconds; about five on an idle machine, most of them to make the PostgreSQL data directory
STOP_WITHIN = 20.0
PATIENCE = 15  # seconds to wait for a change of a job, or for a webhook


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
                """Print nothing."""

        server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://{LOOPBACK}:{server.server_port}"
        self._calls = calls

    def next_call(self) -> tuple[str, dict[str, str], bytes]:
        """Path, headers and body of the next call, in the order of arrival. Raises `queue.Empty` when none comes."""
        return self._calls.get(timeout=PATIENCE)


class Service:
    """`accepted dev` as a child process in its own session, so that only this process gets the Ctrl-C."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="accepted-demo-"))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server((LOOPBACK, 0)) as probe:
            self._port = str(probe.getsockname()[1])
        self.url = f"http://{LOOPBACK}:{self._port}"

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("accepted")), "dev", "--port", self._port, "--data-dir", "data"]
        # Without the caller's settings. The receiver's address is not public, so the worker must be allowed to call it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCEPTED_")}
        environment["ACCEPTED_EGRESS_ALLOW"] = "127.0.0.0/8"
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self._home, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, client: httpx.Client) -> bool:
        """Wait until the worker has registered its types; False if the service ends or takes too long."""
        assert self._process is not None
        deadline = time.monotonic() + READY_WITHIN
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if client.get("/job-types").json().get("items"):
                    return True
            time.sleep(0.1)
        return False

    def ledger(self) -> dict[str, Any]:
        """Where its embedded PostgreSQL listens, for `asyncpg.connect`."""
        lines = self._postmaster().read_text().splitlines()
        return {"host": lines[4], "port": int(lines[3]), "user": "postgres", "database": "postgres"}

    def stop(self) -> int | None:
        """Send SIGTERM; returns the exit code, or None if the process does not end."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            return None

    def log(self) -> str:
        """The last lines of its log."""
        return "\n".join((self._home / "log").read_text(errors="replace").splitlines()[-20:])

    def remove(self) -> None:
        """Remove the process, its PostgreSQL and its data, in whatever state they are."""
        if self._process is not None and self.stop() is None:
            self._process.kill()
            self._process.wait()
        _stop_postgres(self._postmaster())
        shutil.rmtree(self._home, ignore_errors=True)

    def _postmaster(self) -> Path:
        return self._home / "data" / "postgres" / "postmaster.pid"


class Stage:
    """What the scenes share: client, receiver, service, the current job, and the passed and failed checks."""

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
        """Print the check `what`, and record whether it passed."""
        (self.seen if is_so else self.unseen).append(what)
        mark = ("ok", "green") if is_so else ("FAILED", "bold red")
        self._console.print("  ", Text.assemble(mark, " ", what), sep="")

    def play(self, scene: "Callable[[Stage], None]") -> None:
        """Run a scene under its docstring as the title. A scene that raises counts as a failed check."""
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
        """Submit a job and print its events until it is finished; returns the finished job."""
        path = str(self.submit(body).headers["Location"])
        with self.client.stream("GET", f"{path}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    self.say(f"{event['status']}, attempt {event['attempt']}")
        return dict(self.client.get(path).json())

    def wait(self, job_id: str, status: str) -> dict[str, Any]:
        """The job once it has `status`, or as it is after `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        answer = self.client.get(f"/jobs/{job_id}")
        while (job := dict(answer.json()))["status"] != status and time.monotonic() < deadline:
            answer = self.client.get(f"/jobs/{job_id}", params={"wait": 2})  # until the status changes
        return job


def _stop_postgres(pid_file: Path) -> None:
    """Stop the embedded server if the service left it running. Its data is deleted, so an immediate stop is safe."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        for _ in range(100):
            if pid_file.exists():
                time.sleep(0.05)
