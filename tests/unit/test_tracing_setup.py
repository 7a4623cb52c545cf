"""When spans are made, and what is refused: decided by the standard variables, before anything is loaded."""

import re
import sys

import pytest

from accepted.domain.references import is_traceparent
from accepted.errors import ConfigurationError
from accepted.tracing import setup
from accepted.tracing.sampling import HeadSampling
from tests.support.loading import loaded_by

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}

STARTS = """
import os
os.environ |= {environment}
from accepted.tracing import context, http, jobs, setup
setup.start("worker")
assert (setup.tracer() is not None) is {made}
"""


@pytest.mark.parametrize(
    ("environment", "made"),
    [
        ({}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_spans_are_made_if_an_exporter_is_named(environment: dict[str, str], made: bool) -> None:
    loaded = loaded_by(STARTS.format(environment=environment, made=made))
    assert ("opentelemetry" in loaded) is made


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")]
)
def test_what_cannot_be_done_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=re.escape(f"{name}='{value}'")):
        setup.start("api")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "accepted.tracing.exporter", raising=False)
    with pytest.raises(ConfigurationError, match=re.escape("pip install 'accepted[otel]'")):
        setup.start("api")


@pytest.mark.parametrize(
    ("sampler", "root", "followed"),
    [
        ("ParentBased{root:TraceIdRatioBased{0.01},remoteParentSampled:AlwaysOnSampler}", 0.01, True),
        ("ParentBased{root:AlwaysOnSampler,remoteParentSampled:AlwaysOnSampler}", 1, True),
        ("TraceIdRatioBased{0.01}", 1, False),
        ("AlwaysOnSampler", 1, False),
    ],
)
def test_only_what_the_sampler_drops_is_dropped_before_it_is_asked(sampler: str, root: float, followed: bool) -> None:
    sampling = HeadSampling(sampler)
    made = 0
    for _ in range(20_000):
        dropped = sampling.dropped(None)
        assert dropped is None or (is_traceparent(dropped) and dropped.endswith("-00"))
        made += dropped is None
    assert made / 20_000 == pytest.approx(root, rel=0.5)
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
    assert sampling.dropped(caller + "01") is None
    assert sampling.dropped(caller + "00") == (caller + "00" if followed else None)


def test_the_sdk_describes_its_samplers_as_we_read_them() -> None:
    from opentelemetry.sdk.trace.sampling import DEFAULT_ON, ParentBasedTraceIdRatio

    assert HeadSampling(ParentBasedTraceIdRatio(0.0).get_description()).dropped(None)
    unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    assert HeadSampling(DEFAULT_ON.get_description()).dropped(unsampled) == unsampled
