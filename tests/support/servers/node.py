"""Node, for the worker of docs/workers: the one on this machine, else the Debian package where that can be had."""

import os
import shutil
import subprocess

import pytest

APT = "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends nodejs"
OLDEST = 18  # the first with fetch


def node() -> str:
    """Its path. Skips the test, with the reason, where there is none to be had."""
    found = shutil.which("node") or _installed()
    version = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout
    if int(version.removeprefix("v").partition(".")[0] or 0) < OLDEST:
        pytest.skip(f"docs/workers/worker.mjs needs Node {OLDEST} or later, and this is {version.strip()}")
    return found


def _installed() -> str:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("no `node` on this machine, and no right to install it")
    done = subprocess.run(["sh", "-c", APT], capture_output=True, text=True, timeout=100)
    found = shutil.which("node")
    if found is None:
        pytest.skip(f"`node` could not be installed: {done.stderr[-200:]}")
    return found
