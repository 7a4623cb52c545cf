"""`accepted …` at a terminal, where somebody is asked and answers."""

import asyncio
import os
import pty

from tests.support.service.processes import ACCEPTED, clean_environment


async def at_a_terminal(says: str, *arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """The exit code, and the output at a terminal."""
    person, terminal = pty.openpty()
    os.write(person, f"{says}\n".encode())
    try:
        running = await asyncio.create_subprocess_exec(
            str(ACCEPTED), *arguments,
            stdin=terminal, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=clean_environment() | env,
        )  # fmt: skip
        said, _ = await running.communicate()
    finally:
        os.close(person)
        os.close(terminal)
    assert running.returncode is not None
    return running.returncode, said.decode()
