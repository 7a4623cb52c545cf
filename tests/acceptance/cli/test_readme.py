"""README on failed and cancelled jobs: each command runs as it stands there, and prints what stands there."""

import re
import shlex

from tests.support.clients.client import Client
from tests.support.service.processes import ACCEPTED, ROOT
from tests.support.service.running_service import run_to_end, serving, types_known

README = (ROOT / "README.md").read_text()
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def shown(begin: str, end: str) -> list[tuple[str, str]]:
    """The commands between two texts of README, each with the output that is shown for it."""
    part = README[README.index(begin) : README.index(end)]
    lines = [line[4:] for line in part.splitlines() if line.startswith("    ")]
    blocks = "\n".join(lines).split("$ ")[1:]
    return [(block.partition("\n")[0], block.partition("\n")[2]) for block in blocks]


def comparable(text: str) -> str:
    """Without ids, times and line breaks."""
    return "".join(TIME.sub("TIME", ID.sub("ID", text)).split())


async def test_failed_and_cancelled_jobs(database_url: str) -> None:
    async with serving(database_url, {}, dev=True) as running:
        client: Client = running.client()
        await types_known(client)
        job = ""
        for command, printed in shown("**When a job fails**", "**Every night.**"):
            if "dead-letters" in command:
                await client.finished(job)
            line = ID.sub(job, command.replace("http://127.0.0.1:8000", running.url))
            done = await run_to_end(shlex.split(line.replace(".venv/bin/accepted", str(ACCEPTED))), running.env)
            assert done.code == 0, done.err
            if " submit " in command and (found := ID.search(done.out)):
                job = found[0]
            for piece in comparable(printed).split("…"):
                assert piece.strip() in comparable(done.out), command
