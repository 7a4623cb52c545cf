"""Jobs that are there if, and only if, the caller's own transaction commits (docs/transactions.md).

The caller's tables are in the ledger's database. Nothing of the server is imported.
"""

from typing import Any, Unpack

from accepted.client import bodies
from accepted.client.options import JobKind
from accepted.transaction.connections import CallersStatement
from accepted.transaction.options import TransactionOptions, as_json

_SUBMIT = CallersStatement(
    "SELECT accepted.submit_v1({type}, CAST({payload} AS jsonb), CAST({options} AS jsonb))",
    ("type", "payload", "options"),
)


def submit(conn: Any, kind: JobKind, payload: Any = None, **options: Unpack[TransactionOptions]) -> Any:
    """Submit a job in the transaction that is open on `conn`. Returns its id; with `async` drivers, an awaitable of it.

    `conn` is a connection or session of SQLAlchemy, or a connection of asyncpg or psycopg. Raises `ValueError` if no
    transaction is open on it, and the driver's error for what the ledger refuses.
    """
    body = bodies.encode({} if payload is None else payload).decode()
    return _SUBMIT.run(conn, type=bodies.type_name(kind), payload=body, options=as_json(options))
