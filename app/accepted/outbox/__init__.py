"""Jobs of a caller whose tables are in another PostgreSQL than the ledger: a table there, and `accepted forward`.

The row is written in the caller's transaction. A forwarder submits it over HTTP under its id as idempotency key, and
deletes it after the 202 (docs/transactions.md). Nothing of the server is imported.
"""

from typing import Any, Unpack
from uuid import uuid4

from accepted.client import bodies
from accepted.client.options import JobKind, SubmitOptions
from accepted.transaction.connections import CallersStatement

TABLE = """
CREATE TABLE accepted_outbox (
    id uuid PRIMARY KEY,
    body json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz,
    stopped text,
    UNIQUE (due_at, id)
)
"""
"""The table, for a migration of the caller's: `op.execute(accepted.outbox.TABLE)`, or as plain SQL.

`due_at`: when a forwarder may take the row. `tried_at`: when one took it first. `stopped`: why none does any more.
"""

_INSERT = CallersStatement(
    "INSERT INTO accepted_outbox (id, body) VALUES (CAST({id} AS uuid), CAST({body} AS json)) RETURNING id",
    ("id", "body"),
)


def submit(conn: Any, kind: JobKind, payload: Any = None, **options: Unpack[SubmitOptions]) -> Any:
    """Write a job into the outbox, in the transaction that is open on `conn`. Returns the id of its row, which is its
    idempotency key; with `async` drivers, an awaitable of it.

    The connections and errors are those of `accepted.transaction.submit`. The service checks the job as it arrives.
    """
    if options.pop("idempotency_key", None) is not None:
        raise ValueError("the id of the row is the idempotency key")
    body = bodies.encode(bodies.job(kind, payload, options)).decode()
    return _INSERT.run(conn, id=str(uuid4()), body=body)
