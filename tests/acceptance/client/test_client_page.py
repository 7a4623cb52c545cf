"""docs/client.md: each of its programs runs as it stands there."""

import asyncio
import json
import re
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from accepted.client import errors
from accepted.domain.network import signing
from tests.support.clients.client import Client
from tests.support.handlers import shop
from tests.support.pages import blocks_to_run
from tests.support.service.processes import ROOT
from tests.support.service.running_service import Running

BLOCKS = blocks_to_run("docs/client.md")
FRAMEWORKS = ("fastapi", "flask", "django")
PROGRAMS = [block.text for block in BLOCKS if block.name not in FRAMEWORKS]
RECEIVERS = {block.name: block.text for block in BLOCKS if block.name in FRAMEWORKS}
SECRET = signing.new_secret()


@pytest.fixture(autouse=True)
def surroundings(trio: Running, keys: Mapping[str, str], client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEPTED_URL", trio.url)
    monkeypatch.setenv("ACCEPTED_API_KEY", keys["hooks"])
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.handlers", shop)


async def test_the_first_program_does_what_it_says_in_twenty_lines(
    trio: Running, keys: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len([line for line in PROGRAMS[0].splitlines() if line.strip()]) <= 20
    await run(PROGRAMS[0].replace("http://127.0.0.1:8000", trio.url).replace("acc_…", keys["hooks"]))
    result, told = capsys.readouterr().out.splitlines()
    assert result == "{'pages': 1}"
    assert re.fullmatch(r"job.succeeded [0-9a-f-]{36} \{'pages': 1\}", told)


@pytest.mark.parametrize("program", PROGRAMS[1:], ids=lambda text: re.sub(r"\W+", "-", text)[-30:])
async def test_every_other_program_runs(program: str) -> None:
    await run(program)


async def run(program: str) -> None:
    """In a thread: the programs block, and one starts a loop of its own."""
    await asyncio.to_thread(exec, compile(program, "docs/client.md", "exec"), {"__name__": "program"})


def _of_fastapi(module: dict[str, Any], body: bytes, headers: Mapping[str, str]) -> int:
    async def post() -> int:
        transport = httpx.ASGITransport(module["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
            return (await http.post("/accepted", content=body, headers=headers)).status_code

    return asyncio.run(post())


def _of_flask(module: dict[str, Any], body: bytes, headers: Mapping[str, str]) -> int:
    return int(module["app"].test_client().post("/accepted", data=body, headers=headers).status_code)


def _of_django(module: dict[str, Any], body: bytes, headers: Mapping[str, str]) -> int:
    from django.conf import settings
    from django.test import RequestFactory

    if not settings.configured:
        settings.configure()
    request = RequestFactory().post("/accepted", data=body, content_type="application/json", headers=headers)
    return int(module["receive"](request).status_code)


POSTS = dict(zip(FRAMEWORKS, (_of_fastapi, _of_flask, _of_django), strict=True))


@pytest.mark.parametrize("framework", POSTS)
async def test_a_receiver_takes_what_is_signed_and_nothing_else(
    framework: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(framework)
    module: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(RECEIVERS[framework].replace("whsec_…", SECRET), "docs/client.md", "exec"), module)
    job = {"id": "j1", "type": "noop", "status": "succeeded"}
    body = json.dumps({"type": "job.succeeded", "timestamp": "2026-11-30T12:00:00Z", "data": job}).encode()
    signed = signing.headers("msg_1", int(time.time()), body, [SECRET])
    post = POSTS[framework]
    assert await asyncio.to_thread(post, module, body, signed) == 204
    assert capsys.readouterr().out == "job.succeeded j1\n"
    assert await asyncio.to_thread(post, module, body + b" ", signed) == 400
    assert await asyncio.to_thread(post, module, body, {}) == 400


def test_the_page_names_every_error() -> None:
    own = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ClientError)]
    assert len(own) > 10
    page = (ROOT / "docs" / "client.md").read_text()
    assert not [one.__name__ for one in own if not re.search(rf"\b{one.__name__}\b", page)]
