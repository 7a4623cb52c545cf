"""`deploy/compose.yaml` runs the PostgreSQL that the tests run on."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.ledger.sql import rows
from tests.support.servers.addresses import EXTERNAL_DATABASE
from tests.support.service.processes import ROOT


@pytest.mark.skipif(EXTERNAL_DATABASE is not None, reason="that PostgreSQL is not the one that we bring")
async def test_compose_runs_the_postgresql_of_the_tests(engine: AsyncEngine) -> None:
    (row,) = await rows(engine, "SELECT current_setting('server_version_num')::int / 10000 AS major")
    assert f"image: postgres:{row['major']}\n" in (ROOT / "deploy" / "compose.yaml").read_text()
