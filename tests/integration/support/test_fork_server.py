"""A process that a fork server starts is as one that imports everything itself."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.service.fork_server import ForkedProcess
from tests.support.service.processes import Service, logged

NOBODY = {"ACCEPTED_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


@pytest.mark.parametrize("command", ["api --port 0", "worker", "scheduler"])
async def test_it_has_its_own_settings_directory_session_log_and_end(command: str, tmp_path: Path) -> None:
    refused = Service(*command.split(), env={"ACCEPTED_DATABASE_URL": "mysql://x"}).start()
    again = Service(*command.split(), env={"ACCEPTED_DATABASE_URL": "mysql://x"}, forked=False).start()
    running = Service(*command.split(), env=NOBODY, directory=tmp_path).start()
    try:
        await running.wait_ready(logged("waiting_for_ledger"))
        assert isinstance(running._process, ForkedProcess)
        assert (await refused.wait_exit(), refused.log()) == (await again.wait_exit(), again.log())
        assert "must start with postgresql://" in refused.log()
        assert os.getsid(running.pid) == running.pid
        assert psutil.Process(running.pid).cwd() == str(tmp_path)
        assert await running.terminate() == 0
        running.start()
        await running.wait_ready(lambda one: one.log().count("waiting_for_ledger") > 1)
        running.signal(signal.SIGKILL)
        assert await running.wait_exit() == -signal.SIGKILL
        running.kill()
    finally:
        for service in (refused, again, running):
            service.remove()
