"""A client in TypeScript, generated from /openapi.json: docs/typescript compiles against it, and runs."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.clients.client import Client
from tests.support.servers.node import node
from tests.support.service.processes import ROOT
from tests.support.service.running_service import Running, run_to_end

PROGRAM = ROOT / "docs" / "typescript"
LOCK = PROGRAM / "package-lock.json"
INSTALL_WITHIN = 30  # seconds


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder whose node_modules are those of the lock; kept for the next run."""
    version = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    found = Path(tempfile.gettempdir()) / f"accepted-npm-{os.getuid()}-{version}"
    if (found / "node_modules").exists():
        return found
    if shutil.which("npm") is None:
        pytest.skip("no `npm` on this machine")
    fresh = Path(tempfile.mkdtemp(prefix="accepted-npm-"))
    for name in ("package.json", LOCK.name):
        shutil.copy(PROGRAM / name, fresh)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    try:
        done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=INSTALL_WITHIN)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not bring the packages within {INSTALL_WITHIN} s")
    if done.returncode:
        pytest.skip(f"npm cannot bring the packages: {done.stderr[-200:]}")
    with contextlib.suppress(OSError):  # another run was quicker
        fresh.rename(found)
    return found


async def test_what_is_generated_submits_waits_and_verifies(
    packages: Path, trio: Running, keys: Mapping[str, str], client: Client, tmp_path: Path
) -> None:
    for name in ("submit.ts", "tsconfig.json", "package.json"):
        shutil.copy(PROGRAM / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    (tmp_path / "openapi.json").write_bytes((await client.get("/openapi.json")).content)
    env = {"ACCEPTED_URL": trio.url, "ACCEPTED_API_KEY": keys["hooks"]}
    modules = packages / "node_modules"
    for command in (
        [
            modules / "openapi-typescript/bin/cli.js",
            "openapi.json",
            "-o",
            "schema.d.ts",
            "--default-non-nullable=false",
        ],
        [modules / "typescript/bin/tsc"],
        ["submit.js"],
    ):
        done = await run_to_end([node(), *map(str, command)], env, cwd=str(tmp_path))
        assert done.code == 0, done
    assert done.out.splitlines() == ['{"pages":1}', "true succeeded"]
