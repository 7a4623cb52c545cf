"""Commands as the pages show them, in a shell that finds `accepted` and `python`, with files in its directory."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.service.processes import Service
from tests.support.service.running_service import Done, run_to_end

SHELL = Path("/bin/sh")
PATH = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


async def typed(command: str, env: Mapping[str, str], directory: Path) -> Done:
    """Run it to its end."""
    return await run_to_end([str(SHELL), "-ec", command], PATH | dict(env), str(directory))


def staying(command: str, env: Mapping[str, str], directory: Path) -> Service:
    """A command that runs until it is stopped, not yet started. Signals reach it: the shell makes room for it."""
    return Service("-c", f"exec env {command}", name=command, env=PATH | dict(env), program=SHELL, directory=directory)
