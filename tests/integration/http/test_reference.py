"""GET /docs: the reference of the API, from the service's own files."""

import re

import pytest

from accepted.api.reference import page
from accepted.domain.ids import serve_under
from tests.support.clients.client import Client


async def test_the_page_and_all_that_it_loads_are_served(client: Client) -> None:
    shown = await client.get("/docs")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.findall(r"(?:https?:)?//", shown.text), "nothing from another host"
    assert not re.findall(r"<script(?![^>]* src=)|<style| on\w+=", shown.text), "its policy refuses inline code"
    policy = dict(one.split(" ", 1) for one in shown.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"]) == ("'none'", "'self'")
    loaded = re.findall(r'(?:src|href|data-schema)="(/[^"]*)"', shown.text)
    assert sorted(loaded)[:3] == ["/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"]
    types = {path: (await client.get(path)).headers["content-type"].split(";")[0] for path in loaded}
    assert types == {
        "/docs/start.js": "text/javascript", "/docs/swagger-ui-bundle.js": "text/javascript",
        "/docs/swagger-ui.css": "text/css", "/openapi.json": "application/json",
    }  # fmt: skip
    assert "SwaggerUIBundle" in (await client.get("/docs/swagger-ui-bundle.js")).text


@pytest.mark.parametrize("name", ["favicon.png", "..%2f__init__.py", "nothing"])
async def test_no_other_file_is_served(client: Client, name: str) -> None:
    assert (await client.get(f"/docs/{name}")).status_code == 404


async def test_behind_a_proxy_its_links_have_the_prefix() -> None:
    serve_under("/jobs-api")
    try:
        text = bytes((await page()).body).decode()
    finally:
        serve_under("")
    assert set(re.findall(r'="(/[^/"]*)', text)) == {"/jobs-api"}
