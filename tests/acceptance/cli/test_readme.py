"""README and docs/walk.md: what stands there runs, and prints what stands there."""

import re
import shlex
import sys
from pathlib import Path

from tests.support.clients.client import Client
from tests.support.servers.ports import free_port
from tests.support.service.processes import ACCEPTED, ROOT, StartService, logged
from tests.support.service.running_service import BOOT_WITHIN, run_to_end, serving, types_known

README = (ROOT / "README.md").read_text()
WALK = (ROOT / "docs" / "walk.md").read_text()
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def shown(begin: str, end: str) -> list[tuple[str, str]]:
    """The commands between two texts of the walk, each with the output that is shown for it."""
    part = WALK[WALK.index(begin) : WALK.index(end)]
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


async def test_the_ten_lines(database_url: str, tmp_path: Path, start_service: StartService) -> None:
    """On a port of its own, which the clients get by ACCEPTED_URL."""
    handler, program = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shop.py").write_text(handler)
    start, curl, submit = re.findall(r"^    ((?:curl|ACCEPTED|\.venv).*)$", README, re.MULTILINE)
    setting, _, *arguments = shlex.split(start)
    url = f"http://127.0.0.1:{(port := free_port())}"
    env = {"ACCEPTED_DATABASE_URL": database_url, "ACCEPTED_URL": url, **dict([setting.split("=")])}
    dev = start_service(*arguments, "--port", str(port), env=env, directory=tmp_path)
    await dev.wait_ready(logged("is ready"), BOOT_WITHIN)
    assert (await run_to_end([sys.executable, "-c", program], env)).out == "{'pages': 2}\n"
    waited = await run_to_end(shlex.split(curl.replace("http://127.0.0.1:8000", url)), {})
    assert '"status":"succeeded"' in waited.out
    queued = await run_to_end(shlex.split(submit.replace(".venv/bin/accepted", str(ACCEPTED))), env)
    assert (queued.code, "invoice.print" in queued.out) == (0, True)
    assert len(README.splitlines()) < 120
