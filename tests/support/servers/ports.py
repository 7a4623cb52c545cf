"""TCP ports of 127.0.0.1 that stay ours, also while the server that listens on them is dead.

They lie below the kernel's ephemeral range: a port from `bind(0)` may be handed to any outgoing connection as
soon as its server is killed, and a client that keeps dialling it can even connect to itself. A lock per port
keeps test sessions that run at the same time apart.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

FIRST, LAST = 20000, 32000  # Linux hands out ephemeral ports from 32768

_held: list[IO[str]] = []  # an open file is a held lock, until this process ends


def free_port() -> int:
    """Reserve a port that nothing listens on; it is ours for the life of this process."""
    locks = Path(tempfile.gettempdir()) / f"accepted-test-ports-{os.getuid()}"
    locks.mkdir(mode=0o700, exist_ok=True)
    choice = random.SystemRandom()
    for _ in range(1000):
        port = choice.randrange(FIRST, LAST)
        if _lock(locks / str(port)) and _bindable(port):
            return port
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")


def _lock(path: Path) -> bool:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _held.append(file)
    return True


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
