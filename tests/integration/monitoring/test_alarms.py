"""deploy/prometheus and deploy/grafana: alarms and queries that Prometheus takes, and a section of the runbook each."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from accepted.domain.monitoring.problems import Kind

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
TESTS = RULES.with_name("tests.yaml")
DASHBOARD = ROOT / "deploy" / "grafana" / "accepted.json"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alarms() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]


@needs_promtool
def test_alarms_fire_when_they_should() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(TESTS))


@needs_promtool
def test_prometheus_takes_each_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:query:{number}", "expr": query} for number, query in enumerate(queries())]
    page = tmp_path / "rules.yaml"
    page.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(page))


def test_each_problem_has_an_alarm_and_each_alarm_a_section() -> None:
    sections = set(re.findall("^## (.*)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    pages = [alarm["annotations"]["runbook_url"] for alarm in alarms()]
    assert {page.partition("#")[0] for page in pages} == {"docs/runbook.md"}
    assert {page.partition("#")[2] for page in pages} == sections
    assert {kind.replace("_", "-") for kind in Kind} <= sections
    cases = [case for one in yaml.safe_load(TESTS.read_text())["tests"] for case in one["alert_rule_test"]]
    assert {case["alertname"] for case in cases} == {alarm["alert"] for alarm in alarms()}
