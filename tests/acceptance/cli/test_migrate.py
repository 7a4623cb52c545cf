"""`accepted migrate`, its `--check` and its `--sql`, and what lies beside our schema in a shared database."""

import json
from urllib.parse import urlsplit, urlunsplit

from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import accepted


async def test_check_says_both_revisions(empty_database_url: str, database_server: DatabaseServer) -> None:
    env = {"ACCEPTED_DATABASE_URL": empty_database_url}
    behind = await accepted("migrate", "--check", env=env)
    assert behind.code == 1
    told = await accepted("migrate", "--check", "--json", env=env)
    assert (told.code, json.loads(told.out)) == (1, {"up_to_date": False, "problem": behind.err[10:-1]})
    assert "behind" in behind.err
    assert "none" in behind.err
    assert "0001" in behind.err

    assert (await accepted("migrate", env=env)).code == 0
    equal = await accepted("migrate", "--check", "--json", env=env)
    assert (equal.code, equal.err, json.loads(equal.out)) == (0, "", {"up_to_date": True, "problem": None})

    name = empty_database_url.rsplit("/", 1)[1]
    database_server.execute("UPDATE accepted.alembic_version SET version_num = '9999'", name)
    ahead = await accepted("migrate", "--check", env=env)
    assert ahead.code == 1
    assert "ahead" in ahead.err
    assert "9999" in ahead.err
    assert "0001" in ahead.err


async def test_check_changes_nothing(empty_database_url: str, database_server: DatabaseServer) -> None:
    await accepted("migrate", "--check", env={"ACCEPTED_DATABASE_URL": empty_database_url})
    name = empty_database_url.rsplit("/", 1)[1]
    assert database_server.execute("SELECT to_regnamespace('accepted') IS NULL", name) == "t"


async def test_sql_makes_the_same_schema(
    database_server: DatabaseServer, empty_database_url: str, database_url: str
) -> None:
    """Printed without a connection; psql runs it."""
    printed = await accepted("migrate", "--sql", env={})
    assert printed.code == 0
    by_hand, migrated = (url.rsplit("/", 1)[1] for url in (empty_database_url, database_url))
    database_server.execute(printed.out, by_hand)
    columns = (
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'accepted'"
    )
    functions = "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'accepted'::regnamespace"
    for query in (columns, functions):
        ordered = f"{query} ORDER BY 1, 2"
        assert database_server.execute(ordered, by_hand) == database_server.execute(ordered, migrated)
    assert (await accepted("migrate", "--check", env={"ACCEPTED_DATABASE_URL": empty_database_url})).code == 0


async def test_nothing_of_ours_is_outside_our_schema(database_server: DatabaseServer, database_url: str) -> None:
    name = database_url.rsplit("/", 1)[1]
    others = (
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname NOT IN ('accepted', 'pg_catalog', 'information_schema', 'pg_toast')"
    )
    assert database_server.execute(others, name) == "0"


async def test_a_role_that_may_not_create_the_schema(database_server: DatabaseServer, empty_database_url: str) -> None:
    """The error says what to do. After that the role migrates and works, without a right on `public`."""
    name = empty_database_url.rsplit("/", 1)[1]
    role = f"role_{name}"
    database_server.execute(f'CREATE ROLE "{role}" LOGIN')
    parts = urlsplit(empty_database_url)
    env = {
        "ACCEPTED_DATABASE_URL": urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")),
    }
    try:
        refused = await accepted("migrate", env=env)
        (line,) = refused.err.splitlines()
        assert refused.code == 1
        assert f'CREATE SCHEMA accepted AUTHORIZATION "{role}"' in line

        database_server.execute(f'CREATE SCHEMA accepted AUTHORIZATION "{role}"', name)
        assert (await accepted("migrate", env=env)).code == 0
        assert (await accepted("migrate", "--check", env=env)).code == 0
    finally:
        database_server.execute("DROP SCHEMA IF EXISTS accepted CASCADE", name)
        database_server.execute(f'DROP ROLE "{role}"')
