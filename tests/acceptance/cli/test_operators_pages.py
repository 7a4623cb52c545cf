"""docs/operations.md and docs/upgrading.md: their commands and queries run as they stand there."""

from pathlib import Path

import asyncpg

from tests.support.pages import blocks_to_run
from tests.support.service.processes import ROOT
from tests.support.service.shell import typed

OPERATIONS = blocks_to_run("docs/operations.md")
UPGRADING = blocks_to_run("docs/upgrading.md")


async def test_operations(database_url: str, tmp_path: Path) -> None:
    """The grants are those of deploy/roles.sql, with which test_least_rights.py runs the service."""
    grants, *queries = [block for block in OPERATIONS if block.language == "sql"]
    (keys,) = [block for block in OPERATIONS if block.language != "sql"]
    assert grants.text in (ROOT / "deploy" / "roles.sql").read_text()
    psql = await asyncpg.connect(database_url, server_settings={"search_path": "accepted"})
    for query in queries:
        await psql.fetch(query.text)
    await psql.close()
    (command,) = keys.commands()
    done = await typed(command, {"ACCEPTED_DATABASE_URL": database_url}, tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("acc_")


async def test_upgrading(empty_database_url: str, tmp_path: Path) -> None:
    """In a database without a schema: the check says so."""
    codes = []
    for block in UPGRADING:
        (command,) = block.commands()
        done = await typed(command, {"ACCEPTED_DATABASE_URL": empty_database_url}, tmp_path)
        codes.append((command, done.code))
    assert codes == [("accepted migrate --check", 1), ("accepted migrate", 0)]
