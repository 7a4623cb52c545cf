"""`accepted migrate`."""

from typing import Annotated

import typer

from accepted.cli.http import AsJson, say_whether
from accepted.cli.keys.ledger import on_ledger
from accepted.environment import PREFIX
from accepted.errors import ConfigurationError

DatabaseUrl = Annotated[str | None, typer.Option(help=f"Overrides {PREFIX}DATABASE_URL.")]
Check = Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if the schema is not up to date.")]
Sql = Annotated[bool, typer.Option("--sql", help="Print the SQL for an empty database; connect to nothing.")]


def migrate(database_url: DatabaseUrl = None, check: Check = False, sql: Sql = False, as_json: AsJson = False) -> None:
    """Bring the database schema up to date."""
    import uvloop

    from accepted.settings import load
    from accepted.storage.db import migrate as migrations

    if sql:
        typer.echo(migrations.as_sql(), nl=False)
        return
    url = load(database_url=database_url).require_database()

    def work() -> None:
        if not check:
            uvloop.run(migrations.migrate(url))
        elif problem := on_ledger(url, migrations.check):
            raise ConfigurationError(problem)

    say_whether("up_to_date", "the ledger is up to date", work, as_json)
