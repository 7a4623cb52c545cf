"""GET /docs: the reference of this API, which Swagger UI draws in the browser from /openapi.json.

The files of Swagger UI come with the service, in the distribution fastapi-offline, whose code is not loaded. The page
loads nothing from any other host, and its Content-Security-Policy has the browser refuse that.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

from accepted.domain.ids import link
from accepted.errors import ResourceNotFound

router = APIRouter(include_in_schema=False)

SCRIPT = """
const schema = new URL(document.currentScript.dataset.schema, document.baseURI).href;
SwaggerUIBundle({url: schema, dom_id: "#reference", deepLinking: true, validatorUrl: null, tryItOutEnabled: true});
"""

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Accepted: the HTTP API</title>
<link rel="stylesheet" href="{root}/docs/swagger-ui.css"><link rel="icon" href="data:,"></head>
<body><main id="reference"><p>The reference needs JavaScript. Its source is
<a href="{root}/openapi.json">openapi.json</a>.</main>
<script src="{root}/docs/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js" data-schema="{root}/openapi.json"></script></body>
</html>
"""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets styles of elements, and has icons in its style sheet."""

FILES = ("swagger-ui.css", "swagger-ui-bundle.js")

MAX_AGE = "public, max-age=86400"
"""Another version of the service may bring other files under these names."""


@router.get("/docs")
async def page() -> Response:
    return HTMLResponse(
        PAGE.format(root=link("")),
        headers={
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(SCRIPT, media_type="text/javascript")


@router.get("/docs/{name}")
async def file(name: str) -> Response:
    if name not in FILES:
        raise ResourceNotFound("there is no such file")
    headers = {"Cache-Control": MAX_AGE, "X-Content-Type-Options": "nosniff"}
    return FileResponse(_directory() / name, headers=headers)


@lru_cache(maxsize=1)
def _directory() -> Path:
    """Where the distribution keeps the files. Its package is looked up, and not imported."""
    found = find_spec("fastapi_offline")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "static"
