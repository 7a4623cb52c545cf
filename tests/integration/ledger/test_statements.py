"""Every statement of storage is one that PostgreSQL accepts for the schema, and its columns can be read by name."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import storage
from accepted.storage.db.statements import Direct, Statement


def every_statement() -> Iterator[tuple[str, Statement]]:
    for module in pkgutil.walk_packages(storage.__path__, f"{storage.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Statement):
                yield f"{module.name}.{name}", value


async def test_every_statement_fits_the_schema_and_names_its_columns(engine: AsyncEngine) -> None:
    """Two columns of one name would be one in a row that is read by name; so would be two without a name."""
    found = dict(every_statement())
    assert len(found) > 100
    ledger = Direct(engine)
    wrong: dict[str, str] = {}
    for name, statement in found.items():
        try:
            async with ledger.statements() as conn:
                columns = [column.name for column in (await conn.prepare(statement._sql)).get_attributes()]
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"
            continue
        twice = [column for column, count in Counter(columns).items() if count > 1]
        if twice or (len(columns) > 1 and "?column?" in columns):
            wrong[name] = f"columns {columns}"
    await ledger.close()
    assert wrong == {}
