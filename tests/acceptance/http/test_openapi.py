"""The OpenAPI document is true: schemathesis calls every operation and checks each answer against it."""

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from tests.support.clients.client import Client
from tests.support.service.running_service import Running

EXAMPLES = 30  # for each operation

# The default list of schemathesis lacks 413 and 414.
REFUSALS = ["400", "401", "403", "404", "409", "412", "413", "414", "415", "422", "429", "5xx"]

# Job types are not in the document, so a valid body can name an unknown type. The check without a key sends our key all
# the same; tests/acceptance/tenants/test_auth.py covers that.
NOT_OURS = [positive_data_acceptance, ignored_auth]


@pytest.fixture(scope="module")
async def document(client: Client) -> Any:
    return (await client.get("/openapi.json")).json()


@pytest.fixture(scope="module")
def schema(trio: Running, document: Any) -> Any:
    """Without the pytest plugin of schemathesis, which does not support pytest 9.2."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=trio.url)
    schema.config.checks.negative_data_rejection.expected_statuses = REFUSALS
    return schema


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/jobs"),
        ("GET", "/jobs"),
        ("GET", "/jobs/{job_id}"),
        ("GET", "/jobs/{job_id}/attempts"),
        ("GET", "/jobs/{job_id}/logs"),
        ("GET", "/jobs/{job_id}/explain"),
        ("GET", "/jobs/{job_id}/events"),
        ("POST", "/jobs/{job_id}/cancel"),
        ("POST", "/jobs/{job_id}/retry"),
        ("POST", "/jobs/cancel"),
        ("DELETE", "/jobs/{job_id}"),
        ("POST", "/batches"),
        ("GET", "/batches/{batch_id}"),
        ("POST", "/batches/{batch_id}/cancel"),
        ("GET", "/dead-letters"),
        ("POST", "/dead-letters/replay"),
        ("POST", "/dead-letters/discard"),
        ("POST", "/dead-letters/{job_id}/replay"),
        ("GET", "/job-types"),
        ("GET", "/queues"),
        ("GET", "/queues/{name}"),
        ("GET", "/queues/{name}/sizing"),
        ("PATCH", "/queues/{name}"),
        ("DELETE", "/queues/{name}"),
        ("GET", "/schedules"),
        ("POST", "/schedules/preview"),
        ("PUT", "/schedules/{name}"),
        ("GET", "/schedules/{name}"),
        ("DELETE", "/schedules/{name}"),
        ("GET", "/schedules/{name}/runs"),
        ("POST", "/schedules/{name}/trigger"),
        ("PUT", "/job-types/{name}"),
        ("DELETE", "/job-types/{name}"),
        ("POST", "/queues/{name}/lease"),
        ("POST", "/leases/{lease}/complete"),
        ("POST", "/leases/{lease}/fail"),
        ("POST", "/leases/{lease}/heartbeat"),
        ("POST", "/leases/{lease}/progress"),
        ("GET", "/targets"),
        ("GET", "/targets/{host}"),
        ("POST", "/targets/{host}/release"),
        ("GET", "/workers"),
        ("POST", "/workers/{process_id}/drain"),
        ("GET", "/webhook-deliveries"),
        ("POST", "/webhook-deliveries/{delivery_id}/redeliver"),
        ("GET", "/webhook-secret"),
        ("POST", "/webhook-secret/rotate"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    ],
)
@pytest.mark.timeout(240)
def test_every_answer_is_as_documented(
    keys: dict[str, str], schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = schema[path][method]
    headers = {"authorization": f"Bearer {keys['hooks']}"}  # a tenant whose secret may be rotated
    if mode is GenerationMode.NEGATIVE and not has_input(operation.definition.raw):
        pytest.skip("no input that could be invalid")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES if has_input(operation.definition.raw) else 3,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # without shrinking, which would take many calls
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        query = (case.query or {}).values()
        assume(not any(isinstance(value, list | dict) and len(value) < 2 for value in query))  # sent as nothing, or one
        if isinstance(case.body, dict) and isinstance(case.body.get("wait"), int | float):
            case.body["wait"] = min(case.body["wait"], 0.1)
        case.call_and_validate(headers=headers, timeout=30, excluded_checks=NOT_OURS)

    check()


def has_input(operation: Any) -> bool:
    return bool(operation.get("parameters") or operation.get("requestBody"))


async def test_it_is_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1")


async def test_a_body_is_required(document: Any) -> None:
    assert document["paths"]["/jobs"]["post"]["requestBody"]["required"] is True


async def test_its_schemas_use_json_schema_keywords_only(document: Any) -> None:
    """`ge` and `le` are pydantic's keywords; JSON Schema has `minimum` and `maximum`."""
    assert [word for word in ('"ge"', '"le"', '"gt"', '"lt"') if word in json.dumps(document["components"])] == []


def plain(*statuses: int) -> dict[int, set[str]]:
    """Statuses whose answers have no headers of their own."""
    return {status: set() for status in statuses}


OPERATIONS = {
    ("POST", "/jobs"): {
        202: {"Location", "Operation-Location", "Link", "Retry-After", "Idempotent-Replayed", "Preference-Applied"},
        200: {"Preference-Applied"},
        400: set(),
        401: {"WWW-Authenticate"},
        **plain(403, 413, 415, 422),
        429: {"Retry-After", "RateLimit", "RateLimit-Policy"},
        503: {"Retry-After"},
    },
    ("GET", "/jobs/{job_id}"): {
        200: {"ETag", "Retry-After"},
        304: {"ETag"},
        401: {"WWW-Authenticate"},
        **plain(403, 404, 410, 422),
        503: {"Retry-After"},
    },
    ("GET", "/jobs"): {200: {"Link"}, 401: {"WWW-Authenticate"}, 403: set(), 422: set(), 503: {"Retry-After"}},
    ("GET", "/jobs/{job_id}/attempts"): {200: set(), 401: {"WWW-Authenticate"}, 404: set(), 410: set()},
    ("GET", "/jobs/{job_id}/logs"): {200: {"Link"}, 401: {"WWW-Authenticate"}, 403: set(), 404: set(), 410: set()},
    ("GET", "/jobs/{job_id}/events"): {200: set(), 204: set(), 401: {"WWW-Authenticate"}, 404: set(), 410: set()},
    ("GET", "/jobs/{job_id}/explain"): {200: set(), 401: {"WWW-Authenticate"}, 403: set(), 404: set(), 410: set()},
    ("POST", "/jobs/{job_id}/cancel"): {
        202: {"Location", "Operation-Location", "Link", "Retry-After"},
        401: {"WWW-Authenticate"},
        **plain(403, 404, 409, 410),
        503: {"Retry-After"},
    },
    ("POST", "/jobs/{job_id}/retry"): {
        202: {"Location", "Operation-Location", "Link", "Retry-After"},
        401: {"WWW-Authenticate"},
        **plain(403, 404, 409, 410, 422),
        503: {"Retry-After"},
    },
    ("DELETE", "/jobs/{job_id}"): {**plain(204, 401, 403, 404, 409, 410), 503: {"Retry-After"}},
    ("POST", "/jobs/cancel"): {**plain(200, 400, 401, 403, 413, 415, 422), 503: {"Retry-After"}},
    ("POST", "/jobs/retry"): {**plain(200, 400, 401, 403, 413, 415, 422), 503: {"Retry-After"}},
    ("POST", "/jobs/delete"): {**plain(200, 400, 401, 403, 413, 415, 422), 503: {"Retry-After"}},
    ("POST", "/batches"): {
        202: {"Location", "Operation-Location", "Link", "Retry-After", "Idempotent-Replayed"},
        400: set(),
        401: {"WWW-Authenticate"},
        **plain(403, 410, 413, 415, 422),
        503: {"Retry-After"},
    },
    ("GET", "/batches/{batch_id}"): {200: {"Retry-After"}, 401: set(), 403: set(), 404: set(), 410: set(), 503: set()},
    ("POST", "/batches/{batch_id}/cancel"): {202: {"Location", "Retry-After"}, 404: set(), 409: set(), 410: set()},
    ("GET", "/dead-letters"): {200: {"Link"}, 401: {"WWW-Authenticate"}, 403: set(), 422: set(), 503: {"Retry-After"}},
    ("POST", "/dead-letters/replay"): {
        **plain(200, 400, 401, 403, 413, 415, 422),
    },
    ("POST", "/dead-letters/{job_id}/replay"): {202: {"Location"}, 400: set(), 409: set(), 413: set(), 415: set()},
    ("GET", "/job-types"): {200: set(), 401: {"WWW-Authenticate"}, 403: set()},
    ("GET", "/schedules"): {200: {"Link"}, 401: {"WWW-Authenticate"}, 403: set(), 422: set(), 503: {"Retry-After"}},
    ("PUT", "/schedules/{name}"): {
        200: set(),
        201: {"Location"},
        400: set(),
        401: {"WWW-Authenticate"},
        **plain(403, 413, 415, 422),
        503: {"Retry-After"},
    },
    ("PUT", "/job-types/{name}"): {
        **plain(200, 201, 400),
        401: {"WWW-Authenticate"},
        **plain(403, 409, 413, 415, 422),
        503: {"Retry-After"},
    },
    ("DELETE", "/job-types/{name}"): {204: set(), 401: {"WWW-Authenticate"}, 403: set(), 404: set(), 409: set()},
    ("DELETE", "/schedules/{name}"): {204: set(), 401: {"WWW-Authenticate"}, 403: set(), 404: set()},
    ("GET", "/schedules/{name}/runs"): {200: {"Link"}, 404: set(), 422: set()},
    ("POST", "/schedules/{name}/trigger"): {202: {"Location", "Operation-Location"}, 404: set(), 422: set()},
    ("POST", "/schedules/preview"): {200: set(), 400: set(), 403: set(), 413: set(), 415: set(), 422: set()},
    ("POST", "/queues/{name}/lease"): {200: set(), 401: {"WWW-Authenticate"}, 403: set(), 404: set(), 422: set()},
    ("POST", "/leases/{lease}/complete"): {200: set(), 404: set(), 409: set(), 413: set(), 503: {"Retry-After"}},
    ("POST", "/leases/{lease}/heartbeat"): {200: set(), 404: set(), 409: set(), 503: {"Retry-After"}},
    ("PATCH", "/queues/{name}"): {200: set(), 403: set(), 404: set(), 412: set(), 413: set(), 415: set(), 422: set()},
    ("DELETE", "/queues/{name}"): {204: set(), 401: {"WWW-Authenticate"}, 403: set(), 404: set(), 409: set()},
    ("GET", "/webhook-deliveries"): {
        200: {"Link"},
        401: {"WWW-Authenticate"},
        **plain(403, 404, 410, 422),
        503: {"Retry-After"},
    },
    ("POST", "/webhook-deliveries/{delivery_id}/redeliver"): {
        202: {"Location", "Operation-Location", "Link", "Retry-After"},
        401: {"WWW-Authenticate"},
        **plain(403, 404, 409, 410, 422),
        503: {"Retry-After"},
    },
    ("GET", "/webhook-secret"): {200: set(), 401: {"WWW-Authenticate"}, 403: set()},
    ("POST", "/webhook-secret/rotate"): {200: set(), 401: {"WWW-Authenticate"}, 403: set()},
    ("GET", "/readyz"): {200: set(), 503: set()},
}


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_every_status_and_header_is_named(document: Any, method: str, path: str) -> None:
    responses = document["paths"][path][method.lower()]["responses"]
    missing = []
    for status, headers in OPERATIONS[method, path].items():
        named = {name.lower() for name in responses.get(str(status), {}).get("headers", {})}
        if str(status) not in responses:
            missing.append(str(status))
        missing += [f"{status} {header}" for header in headers if header.lower() not in named]
    assert missing == []


async def test_the_headers_of_an_answer_are_documented(client: Client, document: Any) -> None:
    """Except those that any HTTP answer may have."""
    usual = {"date", "content-length", "content-type", "server", "vary", "connection", "cache-control"}
    job = await client.post({"type": "noop"}, prefer="wait=10", idempotency_key="of-the-document")
    answers: list[tuple[str, str, httpx.Response]] = [
        ("/jobs", "post", job),
        ("/jobs", "post", await client.post({"type": "noop", "delay": 60}, idempotency_key="of-the-document-2")),
        ("/jobs/{job_id}", "get", await client.get(job.headers["location"])),
        ("/jobs", "get", await client.get("/jobs?limit=1")),
        ("/jobs/{job_id}/attempts", "get", await client.get(job.headers["location"] + "/attempts")),
        ("/job-types", "get", await client.get("/job-types")),
        ("/webhook-secret", "get", await client.get("/webhook-secret")),
    ]
    unnamed = {}
    for path, method, answer in answers:
        named = document["paths"][path][method]["responses"][str(answer.status_code)].get("headers", {})
        more = set(answer.headers) - usual - {name.lower() for name in named}
        if more:
            unnamed[f"{method} {path} {answer.status_code}"] = more
    assert unnamed == {}


def test_all_checks_are_on() -> None:
    assert {check.__name__ for check in CHECKS.get_all()} >= {
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    }
