"""Errors as HTTP: RFC 9457 answers, the pages that explain them, and their OpenAPI documentation.

An answer names what is wrong and where. It never repeats what was sent, and the text of an error that is not a
`Refused` is not shown.
"""

import html
import math
import traceback
from typing import Any, TypeAlias

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from accepted import errors
from accepted.api.http.answers import RATE_LIMIT, header_docs, quota_headers
from accepted.api.http.auth import say_scopes
from accepted.api.http.parameters import say_objects
from accepted.api.http.problem_table import BEFORE_ROUTING, HTTP_PROBLEMS, INTERNAL, PROBLEMS, Problem
from accepted.domain.ids import link
from accepted.domain.json_text import encode, escape_pointer
from accepted.errors import AcceptedError, FieldError, InvalidRequest, MalformedLines, Refused
from accepted.services.jobs.validation import MAX_LISTED, describe

MEDIA_TYPE = "application/problem+json"
SCHEMA_REF = "#/components/schemas/Problem"

ANYWHERE = "*"
"""The path of a request whose target is `*`, as in `OPTIONS *`: the service as a whole (RFC 9110 section 9.3.7)."""

log = structlog.get_logger(__name__)

_Headers: TypeAlias = dict[str, str] | None


REFUSALS = (errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)
"""What every operation that needs an API key can raise."""

BODY_REFUSALS = (errors.MalformedRequest, errors.UnsupportedMedia, errors.TooLarge, *REFUSALS)
"""The same for an operation that reads a body."""

_ALL = [*PROBLEMS.values(), *HTTP_PROBLEMS]
_BY_SLUG = {problem.slug: problem for problem in _ALL}
_BY_STATUS = {problem.status: problem for problem in reversed(_ALL)}  # the first problem of a status wins

_STRING = {"type": "string"}
_ERROR = {"type": "object", "properties": dict.fromkeys(("pointer", "detail"), _STRING)}
_PROBLEM_SCHEMA = {
    "title": "Problem", "description": "RFC 9457 problem details.", "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": dict.fromkeys(("type", "title", "detail", "instance"), _STRING)
    | {"status": {"type": "integer"}, "errors": {"type": "array", "items": _ERROR}},
}  # fmt: skip

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>:root{{color-scheme:light dark}}body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:40rem;
margin:3rem auto;padding:0 1rem}}h2{{font-size:1.1rem;margin-bottom:0}}p{{margin-top:.3rem}}</style>
<main><h1>{title}</h1>{body}</main></html>"""


def problem_response(exc: AcceptedError, instance: str) -> Response:
    """The answer to `exc`; `instance` is the path of the request."""
    problem = problem_of(type(exc))
    detail = exc.detail if isinstance(exc, Refused) else ""
    listed = exc.errors if isinstance(exc, (InvalidRequest, MalformedLines)) else None
    retry_after = getattr(exc, "retry_after", None)
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    if isinstance(exc, errors.QuotaExceeded):
        headers |= quota_headers(exc.quota)
    return _answer(problem, instance, detail, listed, headers)


def problem_of(error: type[AcceptedError]) -> Problem:
    """The problem of the nearest class up the error tree; `INTERNAL` for an error that has none."""
    return next((PROBLEMS[cls] for cls in error.__mro__ if cls in PROBLEMS), INTERNAL)


def status_response(status: int, instance: str, headers: _Headers = None) -> Response:
    """The answer with a status that the HTTP layer chose, without an `AcceptedError`."""
    problem = _BY_STATUS.get(status) or _BY_STATUS[400 if status < 500 else 500]
    return _answer(problem, instance, headers=headers)


def answer_to(exc: AcceptedError, scope: Scope) -> Response:
    """The answer to `exc` in the request of `scope`."""
    if problem_of(type(exc)) is INTERNAL:
        return internal_error(exc, scope)
    return problem_response(exc, instance_of(scope))


def internal_error(exc: Exception, scope: Scope) -> Response:
    """Log where `exc` came from, without its text, which may hold a payload; answer without a detail."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    log.error("unexpected error", error=type(exc).__name__, method=scope.get("method"), where=where)
    return status_response(INTERNAL.status, instance_of(scope))


def instance_of(scope: Scope) -> str:
    """The path as the client sent it, percent-encoded, without the query."""
    raw = scope.get("raw_path") or scope["path"].encode()
    return str(raw.decode("ascii", "replace"))


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem, serve the problem pages, and document both in OpenAPI.

    Also turns off redirects between `/jobs` and `/jobs/`, because a client drops the body when it follows one.
    """
    app.router.redirect_slashes = False
    app.add_exception_handler(AcceptedError, _on_accepted_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_unexpected)
    app.add_api_route("/problems", _index, include_in_schema=False)
    app.add_api_route("/problems/{slug}", _page, include_in_schema=False)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(plain())
            say_scopes(app, app.openapi_schema)
            say_objects(app.openapi_schema)
            _say_request_id(app.openapi_schema)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def responses_for(*refusals: type[AcceptedError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a FastAPI operation that can raise these; `BEFORE_ROUTING` is always included."""
    found: dict[int | str, dict[str, Any]] = {}
    content = {MEDIA_TYPE: {"schema": {"$ref": SCHEMA_REF}}}
    given = [problem_of(refusal) for refusal in refusals]
    for problem in (*given, *(each for each in BEFORE_ROUTING if each not in given)):
        entry = found.setdefault(problem.status, {"description": "", "content": content})
        entry["description"] = "; ".join(filter(None, [entry["description"], problem.title]))
        for name in problem.headers:
            entry.setdefault("headers", {})[name] = {"schema": _STRING}
        if problem is PROBLEMS[errors.QuotaExceeded]:
            entry["headers"] |= header_docs(*RATE_LIMIT)
    return found


def _answer(
    problem: Problem, instance: str, detail: str = "", listed: list[FieldError] | None = None, headers: _Headers = None
) -> Response:
    document: dict[str, Any] = {
        "type": link(f"/problems/{problem.slug}"), "title": problem.title, "status": problem.status,
        "detail": detail or problem.meaning, "instance": instance,
    }  # fmt: skip
    if listed:
        document["errors"] = listed
    return Response(encode(document), problem.status, problem.headers | (headers or {}), MEDIA_TYPE)


async def _on_accepted_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, AcceptedError)
    return answer_to(exc, request.scope)


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    headers = dict(exc.headers or {})
    if exc.status_code < 400:
        return Response(status_code=exc.status_code, headers=headers)
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if "Allow" in headers or path == ANYWHERE:
        headers["Allow"] = ", ".join(_allowed(request, path))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": headers["Allow"]})
    return status_response(exc.status_code, instance_of(request.scope), headers)


async def _on_validation_error(request: Request, exc: Exception) -> Response:
    """FastAPI validates parameters only; `accepted.api.http.body` reads the bodies."""
    assert isinstance(exc, RequestValidationError)
    found = exc.errors()
    if any(error["loc"][0] == "path" for error in found):
        return problem_response(errors.ResourceNotFound(), instance_of(request.scope))
    listed = [_parameter_error(error) for error in found[:MAX_LISTED]]
    return problem_response(InvalidRequest(listed), instance_of(request.scope))


async def _on_unexpected(request: Request, exc: Exception) -> Response:
    return internal_error(exc, request.scope)


def _parameter_error(error: Any) -> FieldError:
    place, *steps = error["loc"]
    pointer = "".join(f"/{escape_pointer(str(step))}" for step in steps)
    text = "unknown" if error["type"] == "extra_forbidden" else describe(error)
    return FieldError(pointer, f"{place} parameter: {text}")


def _allowed(request: Request, path: str) -> list[str]:
    """All methods at this path, or `ANYWHERE`; Starlette's own Allow names only those of the first route.

    `HeadAsGet` answers HEAD where there is GET, and `_on_http_exception` answers OPTIONS.
    """
    found = {"OPTIONS"}
    for route in iter_route_contexts(request.app.routes):
        pattern = getattr(route, "path_regex", None)
        if pattern is not None and (path == ANYWHERE or pattern.match(path)):
            found |= set(route.methods or ())
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _with_problems(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with our problems in place of FastAPI's 422, which this service never answers."""
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    components["Problem"] = _PROBLEM_SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for item in schema.get("paths", {}).values():
        for operation in item.values():
            responses = operation.get("responses", {})
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
                only_path = all(parameter["in"] == "path" for parameter in operation.get("parameters", ()))
                truth = responses_for(errors.ResourceNotFound if only_path else errors.InvalidRequest)
                responses.update({str(status): entry for status, entry in truth.items()})
    return schema


def _say_request_id(document: dict[str, Any]) -> None:
    """Every answer has an X-Request-ID."""
    for operation in (each for path in document["paths"].values() for each in path.values()):
        for response in operation["responses"].values():
            response["headers"] = response.get("headers", {}) | header_docs("X-Request-ID")


async def _index() -> Response:
    items = "".join(f'<li><a href="{link("/problems/")}{p.slug}">{html.escape(p.title)}</a> ({p.status})' for p in _ALL)
    return HTMLResponse(_PAGE.format(title="Problems", body=f"<ul>{items}</ul>"))


async def _page(slug: str) -> Response:
    problem = _BY_SLUG.get(slug)
    if problem is None:
        raise errors.ResourceNotFound
    title, meaning, remedy = (html.escape(text) for text in (problem.title, problem.meaning, problem.remedy))
    body = f"""<p>HTTP status <code>{problem.status}</code>, type <code>{link("/problems/")}{problem.slug}</code>
<h2>What it means</h2><p>{meaning}<h2>What to do</h2><p>{remedy}<p><a href="{link("/problems")}">All problems</a>"""
    return HTMLResponse(_PAGE.format(title=title, body=body))
