"""README.md and docs/walk.md: each of their blocks runs, in its order, and prints what is shown with it."""

import re
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.clients.client import Client
from tests.support.pages import Block, blocks, blocks_to_run
from tests.support.servers.ports import free_port
from tests.support.service.processes import ROOT, Service, logged
from tests.support.service.running_service import BOOT_WITHIN, Done, types_known
from tests.support.service.shell import staying, typed
from tests.support.waiting import until

README = blocks_to_run("README.md")
WALK = blocks_to_run("docs/walk.md")
(HOOK,) = [block for block in WALK if block.file == "hook.py"]
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OF_JOB = re.compile(rf"(?:^|/jobs/|\{{\"id\":\")({ID.pattern})", re.MULTILINE)
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


@dataclass
class Reader:
    """Somebody who does in a directory what the pages say, with other ports."""

    directory: Path
    url: str
    hook: int = field(default_factory=free_port)
    ids: dict[str, str] = field(default_factory=dict)
    """By each id of a job that a page shows, the one that came instead; the last job's is the last."""
    running: list[Service] = field(default_factory=list)

    def save(self, block: Block) -> None:
        (self.directory / block.file).write_text(block.text)

    def here(self, text: str) -> str:
        text = re.sub(r"\b9001\b", str(self.hook), text.replace("http://127.0.0.1:8000", self.url))
        return ID.sub(lambda found: self.ids.get(found[0], found[0]), text)

    async def types(self, command: str, shown: str) -> None:
        """Run it. Where the page shows the end of a job, wait for it: the reader is not that quick."""
        if "dead-letters" in command or ("curl" in command and ID.search(command)):
            await Client(self.url).finished(list(self.ids.values())[-1])
        done = await self.runs(self.here(command))
        for as_shown, as_is in zip(OF_JOB.findall(shown)[:1], OF_JOB.findall(done.out)[:1], strict=False):
            self.ids.setdefault(as_shown, as_is)
        rest = comparable(done.out)
        for piece in comparable(shown).split("…"):
            assert piece in rest, (command, piece, rest)
            rest = rest.partition(piece)[2] if piece else rest

    async def stays(self, command: str, env: dict[str, str], ready: str) -> Service:
        """Start what runs until the reader has finished; `ready` is in its log then."""
        self.running.append(staying(command, env, self.directory).start())
        return await self.running[-1].wait_ready(logged(ready), BOOT_WITHIN)

    async def runs(self, command: str) -> Done:
        done = await typed(command, {"ACCEPTED_URL": self.url}, self.directory)
        assert done.code == 0, (command, done)
        return done


def comparable(text: str) -> str:
    """Without ids, times and line breaks."""
    return "".join(TIME.sub("TIME", ID.sub("ID", text)).split())


def commands(page: list[Block]) -> list[str]:
    return [command for block in page if block.language != "python" for command in block.commands()]


@pytest.fixture
async def reader(tmp_path: Path, database_url: str) -> AsyncIterator[Reader]:
    """Both pages are read on one service, started as the second says: as the first does, with one more setting."""
    (first,) = [command for command in commands(README) if "accepted dev" in command]
    touch, start = WALK[0].commands()
    assert start.endswith(first)
    port = free_port()
    reader = Reader(tmp_path, f"http://127.0.0.1:{port}")
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for program in ("accepted", "uvicorn"):
        (binaries / program).symlink_to(Path(sys.executable).with_name(program))
    reader.save(README[0])
    reader.save(HOOK)  # not later: each file that is saved makes the service load its handlers anew
    await reader.runs(touch)
    try:
        await reader.stays(f"{start} --port {port}", {"ACCEPTED_DATABASE_URL": database_url}, "is ready")
        await types_known(Client(reader.url))
        yield reader
    finally:
        for service in reader.running:
            service.remove()


async def test_what_they_show(reader: Reader) -> None:
    """One test, so that a second try has a new service."""
    await read_readme(reader)
    await read_walk(reader)


async def read_readme(reader: Reader) -> None:
    """The handler is served; the program prints what stands behind its `print`."""
    handler, start, program, submit = README
    assert (handler.file, len(start.commands())) == ("shop.py", 1)
    (printed,) = re.findall(r"print\(.*\)  # (.*)", program.text)
    assert (await reader.runs(f"python -c {shlex.quote(program.text)}")).out == f"{printed}\n"
    curl, accepted = submit.commands()
    await reader.types(curl, '"status":"succeeded"')
    await reader.types(accepted, "invoice.print")


async def read_walk(reader: Reader) -> None:
    (told,) = [block.text.strip() for block in blocks("docs/walk.md") if block.language == "text"]
    for block in WALK[1:]:
        if block.file == "shop.py":
            reader.save(block)
            await until(lambda: has_copies(reader), BOOT_WITHIN, "the new handler")
        elif block.language == "sh":
            (command,) = block.commands()
            hook = await reader.stays(reader.here(command), {"ACCEPTED_URL": reader.url}, "startup complete")
        elif block != HOOK:
            for command, shown in block.dialogue():
                await reader.types(command, shown)
                if "callback_url" in command:
                    await hook.wait_ready(logged(reader.here(told)), BOOT_WITHIN)


async def has_copies(reader: Reader) -> bool:
    return "copies" in (await Client(reader.url).get("/job-types")).text


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
