"""What holds of every operation: HEAD, OPTIONS, and query parameters that are given twice. Contract, section 4."""

import re
from typing import Any

import httpx
import pytest

from accepted.api.http.parameters import LISTS
from tests.support.clients.client import Client, check_problem

CHANGES = {"date", "content-length", "etag", "retry-after", "x-request-id"}
"""Header fields whose values may differ between two requests."""


@pytest.fixture(scope="module")
async def document(client: Client) -> Any:
    return (await client.get("/openapi.json")).json()


@pytest.fixture(scope="module")
async def job(client: Client) -> Any:
    return await client.finish("noop", queue="of-every-operation")


def address(path: str, job: Any) -> str:
    """`path` with the names and ids of things that exist, where they do."""
    known = {"{job_id}": job["id"], "/queues/{name}": f"/queues/{job['queue']}"}
    for template, value in known.items():
        path = path.replace(template, value)
    return re.sub(r"\{\w+\}", "of-every-operation", path)


async def test_head_is_get_without_the_body(client: Client, anonymous: Client, document: Any, job: Any) -> None:
    seen: dict[int, int] = {}
    for path in (path for path, item in document["paths"].items() if "get" in item):
        for caller in (client, anonymous):
            get, head = [await caller.http.request(method, address(path, job)) for method in ("GET", "HEAD")]
            assert (path, head.status_code, head.content) == (path, get.status_code, b"")
            assert fields(head, path) == fields(get, path)
            seen[head.status_code] = seen.get(head.status_code, 0) + 1
    assert seen.keys() >= {200, 401, 404}


def fields(answer: httpx.Response, path: str) -> dict[str, str]:
    """The header fields; HEAD of a stream has no chunks."""
    found = {name: "" if name in CHANGES else value for name, value in answer.headers.items()}
    if path.endswith("/events"):
        found.pop("transfer-encoding", None)
    return found


async def test_options_names_the_methods(anonymous: Client, document: Any, job: Any) -> None:
    """Of every template that the address matches: a schedule may be called `preview`."""
    for path in document["paths"]:
        here = address(path, job)
        answer = await anonymous.http.request("OPTIONS", here)
        assert (path, answer.status_code, answer.content) == (path, 204, b"")
        methods = {
            method.upper()
            for template, item in document["paths"].items()
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), here)
            for method in item
        }
        expected = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        assert (path, set(answer.headers["allow"].split(", "))) == (path, expected)


async def test_a_query_parameter_given_twice_is_refused(client: Client, document: Any, job: Any) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for name in {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"} - LISTS:
                answer = await client.http.request(method, f"{address(path, job)}?{name}=1&{name}=1")
                check_problem(answer, 422, f"/{name}")
    check_problem(await client.http.post("/jobs?a=1&a=2", json={"type": "noop"}), 422, "/a")
    check_problem(await client.get("/healthz?a=1&a=2"), 422, "/a")


async def test_ids_may_be_repeated(client: Client, job: Any) -> None:
    answer = await client.get(f"/dead-letters?ids={job['id']}&ids={job['id']}")
    assert (answer.status_code, answer.json()["items"]) == (200, [])


def test_the_lists_are_those_of_the_document(document: Any) -> None:
    arrays = {
        one["name"]
        for item in document["paths"].values()
        for operation in item.values()
        for one in operation.get("parameters", [])
        if one["in"] == "query" and "array" in str(one["schema"])
    }
    assert arrays == LISTS
