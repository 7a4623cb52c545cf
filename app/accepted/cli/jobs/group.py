"""`accepted jobs`: show and watch a job; the other commands are registered here."""

from accepted.cli.client_commands import ClientCommands
from accepted.cli.http import AsJson, ask, segment
from accepted.cli.jobs import about, logs, many, submission, watching
from accepted.cli.jobs.lines import show

jobs = ClientCommands(no_args_is_help=True, help="Submit, show, list, watch, explain, cancel, retry and delete jobs.")
jobs.command("list")(many.list_)
for _command in (
    submission.submit, many.cancel, many.retry, many.delete, about.attempts, about.explain,
    about.tree, logs.logs,
):  # fmt: skip
    jobs.command()(_command)


@jobs.command()
def get(job_id: str, as_json: AsJson = False) -> None:
    """Show a job."""
    show(ask("GET", f"/jobs/{segment(job_id)}"), as_json)


@jobs.command()
def watch(job_id: str, as_json: AsJson = False) -> None:
    """Show the progress of a job until it ends. Exits 1 if it does not succeed."""
    watching.watch(job_id, as_json)
