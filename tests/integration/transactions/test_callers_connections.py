"""`accepted.transaction.submit` on a connection of each driver."""

from datetime import UTC, datetime
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import accepted.transaction
from tests.support.ledger.callers import CALLERS, submitted
from tests.support.ledger.sql import rows
from tests.support.service.http_app import HttpApp


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.__name__)
async def test_the_job_is_there_if_the_caller_commits(app: HttpApp, database_url: str, caller: Any) -> None:
    def submit(conn: Any) -> Any:
        later = datetime(2027, 1, 1, tzinfo=UTC)
        return accepted.transaction.submit(conn, "noop", {"n": "ü:x%"}, run_at=later, tags=["a:b"], queue=None)

    async with caller(database_url) as conn:
        await submitted(conn, submit)
        await submitted(conn, lambda conn: conn.rollback())
        assert await rows(app.engine, "SELECT 1 FROM jobs") == []
        id = await submitted(conn, submit)
        await submitted(conn, lambda conn: conn.commit())
    (job,) = await rows(app.engine, "SELECT id, payload, tags, queue, status FROM jobs")
    assert dict(job) == {
        "id": id, "payload": {"n": "ü:x%"}, "tags": ["a:b"], "queue": "default", "status": "scheduled",
    }  # fmt: skip


async def test_without_a_transaction_nothing_is_submitted(engine: AsyncEngine, database_url: str) -> None:
    outside = await asyncpg.connect(database_url)
    with pytest.raises(ValueError, match="no transaction is open"):
        await accepted.transaction.submit(outside, "noop")
    await outside.close()
    with psycopg.connect(database_url, autocommit=True) as conn, pytest.raises(ValueError, match="no transaction"):
        accepted.transaction.submit(conn, "noop")


async def test_what_python_refuses() -> None:
    with pytest.raises(TypeError, match="object is no connection"):
        accepted.transaction.submit(object(), "noop")
    with pytest.raises(ValueError, match="JSON compliant"):
        accepted.transaction.submit(object(), "noop", {"n": float("nan")})
    with pytest.raises(ValueError, match="must have an offset"):
        accepted.transaction.submit(object(), "noop", run_at=datetime(2027, 1, 1))
