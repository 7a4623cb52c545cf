"""A private RabbitMQ node: its own name, ports, cookie, epmd and data, all on loopback and all expendable.

`rabbitmqctl` starts an Erlang VM and takes about a second. What tests do often goes through `erl_call`, a
small C program of the same Erlang, which takes milliseconds: `eval`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from tests.support.servers.children import kill_tree, spawn, tail
from tests.support.servers.ports import free_port

READY_WITHIN = 90.0  # seconds; 5 on an idle machine
STOP_WITHIN = 30.0
COOKIE = "accepted-tests"
AMQP_HEADER = b"AMQP\x00\x00\x09\x01"  # AMQP 0-9-1, section 4.2.2
# Where Debian, Ubuntu and the RPMs put it, or a directory with `bin` and `lib` of another version.
LIBRARY = Path(os.environ.get("TEST_RABBITMQ", "/usr/lib/rabbitmq"))

# The metrics that `queues` reads are written at each tick of a quorum queue: 5 s unless told otherwise.
ADVANCED = "[{rabbit, [{quorum_tick_interval, 200}]}].\n"


class RabbitMQNode:
    """One node without plugins. `config` adds to rabbitmq.conf: `{"consumer_timeout": "60000"}`.

    Nodes that are to be one cluster share the epmd of their `seed`.
    """

    def __init__(self, config: Mapping[str, str] | None = None, *, seed: "RabbitMQNode | None" = None) -> None:
        self.port, self._distribution_port = free_port(), free_port()
        self._epmd_port = free_port() if seed is None else seed._epmd_port
        self._seed = seed
        self.name = f"accepted-{os.getpid()}-{self.port}@localhost"
        self._home = Path(tempfile.mkdtemp(prefix="accepted-rabbitmq-"))
        self._log = self._home / "rabbitmq.log"
        self._vhosts = ["/"]
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._write_files(config or {})

    @property
    def url(self) -> str:
        return self.vhost_url("/")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def vhost_url(self, vhost: str) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{'%2F' if vhost == '/' else vhost}"

    def start(self) -> None:
        """Start and wait until it speaks AMQP, with every virtual host that was added."""
        if self.running:
            return
        if self._epmd is None and self._seed is None:
            epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = spawn(epmd, env=self._environment(), log=self._log, cwd=self._home)
        # With RABBITMQ_ALLOW_INPUT the script becomes the Erlang VM (exec), so its pid is the one to signal.
        self._process = spawn(
            [_binaries() / "rabbitmq-server"],
            env=self._environment() | {"RABBITMQ_ALLOW_INPUT": "1"},
            log=self._log,
            cwd=self._home,
        )
        self._wait_ready()

    def stop(self) -> None:
        """An orderly shutdown."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_WITHIN)

    def kill(self) -> None:
        """Crash: SIGKILL for the Erlang VM and its helpers.

        RabbitMQ 3.10 writes the list of its quorum queues to disk half a second late; a queue younger than
        that comes back without a leader, for good, and takes no message. That flaw is not what our tests are
        about, so the list is written first. (Messages are not: those it has confirmed are on disk.)
        """
        if self._process is None or not self.running:
            return
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            self.eval("[dets:sync(Table) || Table <- dets:all()]")
        kill_tree(self._process)

    def restart(self) -> None:
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Crash and lose everything: messages, queues, exchanges. Users and virtual hosts come back."""
        self.kill()
        shutil.rmtree(self._home / "mnesia")
        self.start()

    def remove(self) -> None:
        """Stop for good and delete the data."""
        self.kill()
        if self._epmd is not None:
            kill_tree(self._epmd)
        shutil.rmtree(self._home, ignore_errors=True)

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT make a broker that hangs."""
        assert self._process is not None
        self._process.send_signal(number)

    def add_vhost(self, name: str) -> str:
        """A virtual host that survives `wipe` too; its URL."""
        everything = '<<".*">>, <<".*">>, <<".*">>, <<"tests">>'
        self.eval(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, {everything})'
        )
        self._vhosts.append(name)
        self._write_definitions()
        return self.vhost_url(name)

    def delete_vhost(self, name: str) -> None:
        """Drop it with all that is in it; connections to it are closed."""
        self._vhosts.remove(name)
        self._write_definitions()
        self.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>)')

    def join(self) -> None:
        """Become one cluster with the seed; what this node held is gone."""
        assert self._seed is not None
        self.ctl("stop_app")
        self.ctl("join_cluster", self._seed.name)
        self.ctl("start_app")

    def leader_of(self, queue: str, vhost: str = "/") -> str:
        """The name of the node on which this quorum queue has its leader."""
        return self.eval(f"{_found(queue, vhost)}, {{_, N}} = amqqueue:get_pid(Q), N").strip("'")

    def restart_app(self) -> None:
        """`rabbitmqctl stop_app` and `start_app`: the node stops serving and starts again, in one Erlang VM."""
        self.ctl("stop_app")
        self.ctl("start_app")

    def set_memory_alarm(self, on: bool) -> None:
        """As if memory ran out: every connection that publishes is blocked, until it is taken back."""
        self._set_alarm("memory", on)

    def set_disk_alarm(self, on: bool) -> None:
        """The same for the disk."""
        self._set_alarm("disk", on)

    def limit_queues(self, pattern: str, length: int, vhost: str) -> None:
        """A policy: queues of that name hold so many messages and refuse the next."""
        definition = json.dumps({"max-length": length, "overflow": "reject-publish"})
        self.ctl("set_policy", "-p", vhost, "full", pattern, definition, "--apply-to", "queues")

    def _set_alarm(self, source: str, on: bool) -> None:
        alarm = f"{{resource_limit, {source}, node()}}"
        self.eval(f"rabbit_alarm:set_alarm({{{alarm}, []}})" if on else f"rabbit_alarm:clear_alarm({alarm})")

    def delete_queue(self, name: str, vhost: str = "/") -> None:
        self.eval(f'{_found(name, vhost)}, rabbit_amqqueue:delete(Q, false, false, <<"tests">>)')

    def purge(self, name: str, vhost: str = "/") -> None:
        self.eval(f"{_found(name, vhost)}, rabbit_amqqueue:purge(Q)")

    def close_connections(self) -> None:
        """Close every client connection from the broker's side, as an operator can."""
        self.eval('rabbit_networking:close_all_connections("closed by a test")')

    def queues(self, vhost: str = "/") -> dict[str, tuple[int, int, int]]:
        """By queue name: messages ready, messages unacked, consumers. Up to 0.2 s old.

        In the first second after a start it says 0 for queues that hold something: wait with `until`.
        """
        items = "[name, messages_ready, messages_unacknowledged, consumers]"
        info = f'rabbit_amqqueue:info_all(<<"{vhost}">>, {items})'
        row = 'io_lib:format(" ~s ~b ~b ~b", [element(4, N), R, U, C])'  # N is {resource, VHost, queue, Name}
        answer = self.eval(
            f'lists:flatten(["queues:"] ++ [{row} || [{{_, N}}, {{_, R}}, {{_, U}}, {{_, C}}] <- {info}])'
        )
        words = answer.strip('"').split()[1:]
        rows = zip(words[0::4], words[1::4], words[2::4], words[3::4], strict=True)
        return {name: (int(ready), int(unacked), int(consumers)) for name, ready, unacked, consumers in rows}

    def eval(self, erlang: str) -> str:
        """Evaluate an Erlang expression on the node; what it gives, as Erlang writes it."""
        caller = f"c{uuid4().hex}"  # all are `c17` else, and one is refused while the node still knows the one before
        done = subprocess.run(
            ["erl_call", "-h", caller, "-address", f"localhost:{self._distribution_port}", "-c", COOKIE, "-e"],
            input=f"{erlang}.\n",
            capture_output=True,
            text=True,
            timeout=10,
            env=self._environment(),
        )
        if done.returncode or not done.stdout.startswith("{ok, "):
            raise RuntimeError(f"{erlang}: {done.stdout} {done.stderr}")
        return done.stdout.removeprefix("{ok, ").removesuffix("}")

    def ctl(self, *arguments: str) -> str:
        """`rabbitmqctl` for what `eval` is too sharp for; about a second a call."""
        command = [str(_binaries() / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(
            command, env=self._environment(), cwd=self._home, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def log(self) -> str:
        return tail(self._log) + "\n" + tail(self._home / "log" / f"{self.name}.log")

    def _environment(self) -> dict[str, str]:
        # The listener of the node itself, unlike that for clients, is bound by a kernel setting only.
        erlang = "-noinput -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self._home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang,
            **_only_core_plugins(self._home / "plugins"),
        }

    def _write_files(self, config: Mapping[str, str]) -> None:
        lines = {
            "listeners.tcp.local": f"127.0.0.1:{self.port}",
            "load_definitions": str(self._home / "definitions.json"),
            **config,
        }
        (self._home / "rabbitmq.conf").write_text("".join(f"{key} = {lines[key]}\n" for key in lines))
        (self._home / "advanced.config").write_text(ADVANCED)
        (self._home / "enabled_plugins").write_text("[].\n")
        cookie = self._home / ".erlang.cookie"
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)
        self._write_definitions()

    def _write_definitions(self) -> None:
        """What the node loads before it listens: so no client ever meets it without its virtual host."""
        grant = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
            "vhosts": [{"name": name} for name in self._vhosts],
            "permissions": [{"vhost": name, **grant} for name in self._vhosts],
        }
        (self._home / "definitions.json").write_text(json.dumps(definitions))

    def _wait_ready(self) -> None:
        """The listeners open last, so an answer to an AMQP greeting means that it has booted."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline and self.running:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(AMQP_HEADER)
                if probe.recv(1):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"RabbitMQ did not start:\n{self.log()}")


def _found(name: str, vhost: str) -> str:
    return f'{{ok, Q}} = rabbit_amqqueue:lookup({{resource, <<"{vhost}">>, queue, <<"{name}">>}})'


def _binaries() -> Path:
    """The directory of the real scripts (the ones in /usr/sbin insist on running as user rabbitmq)."""
    found = shutil.which("rabbitmq-server", path=f"{LIBRARY / 'bin'}:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise RuntimeError("RabbitMQ is not installed; tests/support/servers/install_rabbitmq.sh says how")
    return Path(found).parent


def _only_core_plugins(directory: Path) -> dict[str, str]:
    """Hide the bundled plugins, which the node would all unpack and read at each start (3 s of 8)."""
    core = next(iter(LIBRARY.glob("lib/rabbitmq_server-*/plugins/rabbit-[0-9]*")), None)
    if core is None:
        return {}
    directory.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        (directory / core.name).symlink_to(core)
    return {"RABBITMQ_PLUGINS_DIR": str(directory)}
