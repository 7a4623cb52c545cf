"""`deploy/compose.yaml` runs the PostgreSQL that the tests run on."""

import re

import pytest
import yaml
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.ledger.sql import rows
from tests.support.servers.addresses import EXTERNAL_DATABASE
from tests.support.service.processes import ROOT


@pytest.mark.skipif(EXTERNAL_DATABASE is not None, reason="that PostgreSQL is not the one that we bring")
async def test_compose_runs_the_postgresql_of_the_tests(engine: AsyncEngine) -> None:
    (row,) = await rows(engine, "SELECT split_part(current_setting('server_version'), ' ', 1) AS version")
    assert f"image: postgres:{row['version']}-bookworm\n" in (ROOT / "deploy" / "compose.yaml").read_text()


def test_every_container_of_compose_has_least_rights() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if service["image"] == "accepted":
            assert service["read_only"], name
            assert "cap_add" not in service, name
            user = "accepted_owner" if name == "migrate" else "accepted"
            assert service["environment"]["ACCEPTED_DATABASE_URL"].startswith(f"postgresql://{user}:"), name
        else:
            assert re.search(r":\d+\.\d+", service["image"]), "an exact version"


def test_the_image_does_not_run_as_root() -> None:
    *_, last = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert last == "10001"
