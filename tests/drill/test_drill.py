"""Each fault is named within 10 s, by `GET /status` or `GET /jobs/{id}/explain`, with its cause, and by the overview.

The overview says it in the sentence of `GET /status`, and leads to the page on which it is acted upon.

`make drill` injects one after the other and writes docs/drill.md; `make test` injects together what goes together. The
same service shows each metric that the dashboard and the alarms ask for.
"""

import asyncio
import os
import re
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.forwarding import forwarder
from tests.drill import report
from tests.drill.faults import FAULTS
from tests.drill.stage import NAMED_WITHIN, OVERVIEW, Named, Stage, staged

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ASKING = (DEPLOY / "grafana" / "accepted.json", DEPLOY / "prometheus" / "rules.yaml")

BUSY = 3
"""How many times slower the service may be while six faults happen together, beside other tests."""


async def together(stage: Stage) -> dict[str, list[Named]]:
    harmless = [fault for fault in FAULTS if not fault.alone]
    named = await asyncio.gather(*(fault.inject(stage) for fault in harmless))
    found = dict(zip((fault.name for fault in harmless), named, strict=True))
    return found | {fault.name: await fault.inject(stage) for fault in FAULTS if fault.alone}


async def one_by_one(stage: Stage) -> dict[str, list[Named]]:
    return {fault.name: await fault.inject(stage) for fault in FAULTS}


def metrics_asked_for() -> set[str]:
    """The metrics in the queries of the dashboard and of the alarms."""
    asked = set(re.findall(r"\baccepted_\w+", "".join(path.read_text() for path in ASKING)))
    return {name.removesuffix("_bucket") for name in asked}


def of_forwarders() -> set[str]:
    """The metrics of `accepted forward`, which is no process of the drill."""
    return {metric.name for gauge in (forwarder.OLDEST, forwarder.STOPPED) for metric in gauge.describe()}


async def test_each_fault_is_named(database_url: str, amqp_url: str, engine: AsyncEngine) -> None:
    page = os.environ.get("DRILL_TABLE")
    async with staged(database_url, amqp_url, engine) as stage:
        found = await (one_by_one if page else together)(stage)
        assert metrics_asked_for() - of_forwarders() <= await stage.series()
    print("\n".join(report.lines(found)))
    within = NAMED_WITHIN if page else NAMED_WITHIN * BUSY
    for fault in FAULTS:
        assert min(one.after for one in found[fault.name] if one.by != OVERVIEW) <= within, fault.name
        assert min(one.after for one in found[fault.name] if one.by == OVERVIEW) <= within, fault.name
    if page:
        report.write(Path(page), found)
