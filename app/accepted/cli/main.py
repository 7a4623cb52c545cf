"""The `accepted` command. Each long-running command stops on SIGTERM and SIGINT, and then exits 0.

To add a command, write it in a module of this package and register it below. A command imports what it needs when it is
called: HTTP server, drivers and settings take a second to load, and `--help` needs none of them.
"""

import os
import re
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import accepted
from accepted import extras, process
from accepted.cli.audit import audit
from accepted.cli.batches import batches
from accepted.cli.dead_letters import dead_letters
from accepted.cli.deliveries import deliveries
from accepted.cli.forward import forward
from accepted.cli.health import healthcheck
from accepted.cli.http import say_json
from accepted.cli.jobs.group import jobs
from accepted.cli.keys.group import keys
from accepted.cli.migrate import DatabaseUrl, migrate
from accepted.cli.queues import queues, size
from accepted.cli.schedules import schedules
from accepted.cli.status import status
from accepted.cli.targets import targets
from accepted.cli.workers import workers
from accepted.domain.job import QUEUE_PATTERN
from accepted.environment import OF_CLIENTS, PREFIX, names_in_file
from accepted.errors import AcceptedError, ConfigurationError

if TYPE_CHECKING:
    from accepted.settings import Settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(keys, name="keys")
app.add_typer(jobs, name="jobs")
app.add_typer(batches, name="batches")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(schedules, name="schedules")
app.add_typer(targets, name="targets")
app.add_typer(workers, name="workers")
app.add_typer(queues, name="queues")
app.add_typer(deliveries, name="deliveries")
app.command("size")(size)
app.command("healthcheck")(healthcheck)
app.command("migrate")(migrate)
app.command("status")(status)
app.command("audit")(audit)
app.command("forward")(forward)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow serving without authentication beyond loopback.")]
BrokerUrl = Annotated[str | None, typer.Option(help=f"Overrides {PREFIX}BROKER_URL.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help=f"For /metrics and /healthz; overrides {PREFIX}METRICS_PORT."),
]
Queues = Annotated[
    str | None, typer.Option(help="Comma-separated queues; webhooks wait on `webhooks`. Default: all queues.")
]
Concurrency = Annotated[int, typer.Option(min=1, max=5000, help="Jobs to run at once.")]
Version = Annotated[bool, typer.Option("--version", help="Show the version and exit.")]
VersionAsJson = Annotated[bool, typer.Option("--json", help="With --version: machine-readable.")]

WITH_LOG = ("api", "worker", "scheduler", "dev")
"""The commands that write a log."""


@app.callback(invoke_without_command=True)
def _options(context: typer.Context, version: Version = False, as_json: VersionAsJson = False) -> None:
    """An HTTP job service. After its 202 a job is neither lost nor recorded twice."""
    if version:
        _show_version(as_json)
    if context.invoked_subcommand is None:
        context.fail("Missing command.")
    if as_json:
        context.fail("--json belongs behind the command.")
    if context.invoked_subcommand in WITH_LOG:
        process.collect_rarely()
    elif context.invoked_subcommand != "healthcheck":  # asked twice a minute for ever: it loads no settings
        _say_unknown()


@app.command()
def api(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="API processes.")] = 1,
    insecure: Insecure = False,
    metrics_port: MetricsPort = None,
) -> None:
    """Serve the HTTP API."""
    settings = _checked_settings(metrics_port)

    from accepted import metrics
    from accepted import metrics_port as port_of_metrics
    from accepted.api.app import Processes, create_app
    from accepted.api.http import exposure
    from accepted.api.http import server as serving

    _start_logging()
    exposure.check(settings, host, insecure)
    sockets = process.bind(host, port)
    if workers == 1:
        port_of_metrics.listen(settings.metrics_port)
        server = serving.Server(serving.config(create_app(settings), settings, host, port), "accepted_api")
        server.run(sockets)
        return
    port_of_metrics.check(settings.metrics_port)
    config = serving.config("accepted.api.app:from_environment", settings, host, port, workers)
    if metrics_port is not None:
        os.environ[f"{PREFIX}METRICS_PORT"] = str(metrics_port)  # each child reads its own settings
    with metrics.counted_together():
        Processes(config, sockets).run()


@app.command()
def worker(queues: Queues = None, concurrency: Concurrency = 10, metrics_port: MetricsPort = None) -> None:
    """Run jobs."""
    names = _queue_names(queues)
    settings = _checked_settings(metrics_port)

    from accepted import metrics_port as port_of_metrics
    from accepted_worker import worker_process

    _start_logging()
    port_of_metrics.listen(settings.metrics_port)
    worker_process.worker(settings, names, concurrency)


@app.command()
def scheduler(metrics_port: MetricsPort = None) -> None:
    """Publish due jobs, fire schedules, rescue the jobs of dead workers, expire and prune jobs."""
    settings = _checked_settings(metrics_port)

    from accepted import metrics_port as port_of_metrics
    from accepted_worker import scheduler_process

    _start_logging()
    port_of_metrics.listen(settings.metrics_port)
    scheduler_process.scheduler(settings)


@app.command()
def dev(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data_dir: Annotated[Path, typer.Option(help="Data directory of the embedded PostgreSQL.")] = Path(".accepted"),
    concurrency: Concurrency = 10,
    database_url: DatabaseUrl = None,
    broker_url: BrokerUrl = None,
    insecure: Insecure = False,
    metrics_port: MetricsPort = None,
    reload: Annotated[bool, typer.Option("--reload", help="Load handlers anew when a file changes.")] = False,
) -> None:
    """Run API, worker and scheduler, on an embedded PostgreSQL, without authentication."""
    from accepted.settings import load
    from accepted.storage.db import embedded

    settings = load(database_url=database_url, broker_url=broker_url, metrics_port=metrics_port)
    if settings.database_url is None:
        embedded.require_installed()
    if reload:
        import_module("watchfiles")  # a missing extra is said before anything starts

    import uvloop

    from accepted import metrics_port as port_of_metrics
    from accepted.api.http import exposure
    from accepted.cli import dev as development
    from accepted_worker import processes

    if "auth" not in settings.model_fields_set:
        settings = settings.model_copy(update={"auth": "off"})
    exposure.check(settings, host, insecure)
    _start_logging(pretty=True)
    sockets = process.bind(host, port)
    port_of_metrics.listen(settings.metrics_port)
    given = nullcontext(settings.database_url) if settings.database_url else embedded.running(data_dir)
    with (
        processes.exiting(),
        development.WorkerProcess(concurrency, broker_url, settings.auth, reload=reload) as worker_process,
        given as url,
    ):
        ledger = "the database that is given" if settings.database_url else f"embedded, in {data_dir}"
        settings = settings.model_copy(update={"database_url": url})
        uvloop.run(development.run(settings, host, sockets, worker_process, ledger, reload=reload))


def _show_version(as_json: bool) -> NoReturn:
    if as_json:
        say_json({"version": accepted.__version__})
    else:
        typer.echo(f"accepted {accepted.__version__}")
    raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """The entry point. An `AcceptedError` or a missing extra ends with one line and exit code 1."""
    try:
        app(arguments)
    except AcceptedError as error:
        sys.exit(f"accepted: {error or type(error).__name__}")
    except ModuleNotFoundError as error:
        advice = extras.advice(error)
        if advice is None:
            raise
        sys.exit(f"accepted: {advice}")


def _queue_names(text: str | None) -> list[str]:
    """The names in `--queues`; none for all queues. A worker of a queue that cannot exist would serve nothing."""
    if text is None:
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if not re.fullmatch(QUEUE_PATTERN, name)]:
        raise ConfigurationError(f"--queues: {wrong[0]!r} cannot be the name of a queue ({QUEUE_PATTERN})")
    if not names:
        raise ConfigurationError("--queues names no queue; leave it out to serve all queues")
    return names


def _start_logging(pretty: bool = False) -> None:
    """For a process that runs on: all that it has to say from now on is a line of its log; it may open many files."""
    import structlog

    from accepted import logs
    from accepted.settings import unknown

    logs.configure(pretty)
    process.raise_descriptor_limit()
    for name, near in unknown().items():
        structlog.get_logger("settings").warning("unknown_setting", name=name, did_you_mean=near)


def _say_unknown() -> None:
    """Loads the settings only if one is given: it takes longer than all else that `--help` does."""
    given = [name.upper() for name in (*os.environ, *names_in_file())]
    of_clients = {PREFIX + name.upper() for name in OF_CLIENTS}
    if all(name in of_clients for name in given if name.startswith(PREFIX)):
        return

    from accepted.settings import unknown

    for name, near in unknown().items():
        hint = f"; did you mean {near}?" if near else ""
        typer.echo(f"accepted: {name} is no setting and is ignored{hint}", err=True)


def _checked_settings(metrics_port: int | None) -> "Settings":
    """The settings of a process that needs the ledger. Called before slow imports, to fail at once.

    What is missing may be misspelt, and this process gets no log that could say so.
    """
    from accepted.settings import load

    try:
        settings = load(metrics_port=metrics_port)
        settings.require_database()
    except ConfigurationError:
        _say_unknown()
        raise
    return settings
