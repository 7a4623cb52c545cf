"""Every error is an RFC 9457 problem that OpenAPI documents. Log and metrics hold nothing of the request."""

import json
from collections.abc import Iterator

import httpx
import pytest
import structlog
from prometheus_client import REGISTRY

from accepted import errors
from accepted.api.http import problems
from accepted.api.http.server import DeadlineProtocol
from tests.support.service.echo_service import CANARY, check_problem, get, post, serving


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(DeadlineProtocol) as number:
        yield number


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/echo/", 404),
        ("/things/not-a-uuid", 404),
        ("/things/%00", 404),
        ("/things/%ff", 404),
        ("/things/../x", 404),
        ("/things/0198f1c2-7d5e-7cc3-98c4-dc0c0c07398f", 200),
        ("/things/0198F1C2-7D5E-7CC3-98C4-DC0C0C07398F", 200),
        (f"/echo?limit={CANARY}", 422),
        ("/echo?limit=-1", 422),
        ("/echo?limit=100000000000000000000", 422),
        ("/problems/nothing", 404),
        ("/boom", 500),
        ("/raise/ConfigurationError", 500),
        ("/raise/LedgerUnavailable", 503),
        ("/raise/ResourceNotFound", 404),
        ("/raise/Gone", 410),
        ("/raise/Forbidden", 403),
        ("/raise/KeyReused", 422),
    ],
)
def test_every_error_is_a_problem(port: int, path: str, status: int) -> None:
    response = get(port, path)
    assert response.status_code == status
    if status != 200:
        check_problem(status, response.headers, response.content)


def test_a_bad_query_parameter_is_named(port: int) -> None:
    (error,) = get(port, f"/echo?limit={CANARY}").json()["errors"]
    assert error["pointer"] == "/limit"
    assert error["detail"].startswith("query parameter: must be a valid integer")


def test_headers_of_problems(port: int) -> None:
    assert get(port, "/raise/LedgerUnavailable").headers["retry-after"] == "5"
    assert get(port, "/raise/Unauthenticated").headers["www-authenticate"] == "Bearer"
    wrong = httpx.delete(f"http://127.0.0.1:{port}/echo", trust_env=False)
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    check_problem(405, wrong.headers, wrong.content)


def test_every_problem_type_has_a_page(port: int) -> None:
    index = get(port, "/problems")
    assert index.headers["content-type"].startswith("text/html")
    for problem in [*problems.PROBLEMS.values(), *problems.HTTP_PROBLEMS]:
        assert f'href="/problems/{problem.slug}"' in index.text
        page = get(port, f"/problems/{problem.slug}")
        assert page.headers["content-type"].startswith("text/html")
        assert problem.remedy.split("`")[0] in page.text


def test_every_refusal_has_a_problem() -> None:
    assert set(errors.Refused.__subclasses__()) <= set(problems.PROBLEMS)


ANY_REQUEST = {"400", "403", "408", "414", "421", "431"}


def test_openapi_documents_the_problems(port: int) -> None:
    schema = get(port, "/openapi.json").json()
    refs = {"schema": {"$ref": problems.SCHEMA_REF}}
    posted = schema["paths"]["/echo"]["post"]["responses"]
    assert posted["422"]["content"] == {"application/problem+json": refs}
    assert posted["422"]["description"] == "A field is wrong; The idempotency key was used for another request"
    assert "422" in schema["paths"]["/echo"]["get"]["responses"]
    assert set(schema["paths"]["/things/{id}"]["get"]["responses"]) == {"200", "404", *ANY_REQUEST}
    assert "Problem" in schema["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(schema)


def test_the_log_line_names_the_route_and_not_the_path() -> None:
    with structlog.testing.capture_logs() as lines, serving(DeadlineProtocol) as port:
        get(port, f"/prefix/deep/{CANARY}?q={CANARY}", headers={"x-secret": CANARY})
        get(port, f"/{CANARY}")
        get(port, "/boom")
        get(port, "/raise/ConfigurationError")
        post(port, b'{"a":1}')
    seen = [(e["route"], e["status"], e["bytes_in"], e.get("tenant")) for e in lines if e["event"] == "request"]
    assert seen == [
        ("/prefix/deep/{id}", 200, 0, "acme"),
        ("unmatched", 404, 0, None),
        ("/boom", 500, 0, None),
        ("/raise/{name}", 500, 0, None),
        ("/echo", 200, 7, None),
    ]
    assert CANARY not in str(lines)
    assert [e["error"] for e in lines if e["event"] == "unexpected error"] == [
        "ValueError",
        "ConfigurationError",
    ]


def test_metrics_have_one_label_for_all_unknown_paths(port: int) -> None:
    def count() -> float:
        labels = {"method": "GET", "route": "unmatched", "status": "404"}
        return REGISTRY.get_sample_value("accepted_http_requests_total", labels) or 0

    before = count()
    for number in range(5):
        get(port, f"/stranger/{number}")
    assert count() == before + 5
    routes = {
        sample.labels["route"] for metric in REGISTRY.collect() for sample in metric.samples if "route" in sample.labels
    }
    assert not any("stranger" in route for route in routes)
