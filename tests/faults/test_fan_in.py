"""No fan-in ever hangs: workers die at every named point of a commit, and every workflow ends all the same."""

import asyncio

import httpx
import pytest

from tests.faults import effects
from tests.faults.checker import Ledger
from tests.faults.cluster import Cluster

CLAIM_POINTS = ["worker before the claim's COMMIT", "worker after the claim's COMMIT"]  # of the claim on RabbitMQ
POINTS = [
    "worker after the effect",
    "worker before the outcome's COMMIT",
    "worker after the outcome's COMMIT",
]
WITHIN = 60.0  # seconds: a lease, and the other jobs
ENDS = "SELECT status, count(*) FROM jobs GROUP BY 1 ORDER BY 1"


def member(ref: str, *depends_on: str) -> dict[str, object]:
    return {"type": effects.TYPE, "ref": ref, "depends_on": list(depends_on)}


DIAMOND = [member("a"), member("b", "a"), member("c", "a"), member("d", "b", "c")]
WIDE = [*(member(f"m{n}") for n in range(50)), member("end", *(f"m{n}" for n in range(50)))]

CASES = [
    *(pytest.param("postgres", [point], id=f"postgres, {point}", marks=pytest.mark.slow) for point in POINTS),
    *(
        pytest.param("rabbitmq", [point], id=f"rabbitmq, {point}", marks=pytest.mark.slow)
        for point in (*CLAIM_POINTS, *POINTS)
    ),
    pytest.param("postgres", [POINTS[1]], id="quick"),
]


@pytest.mark.fault("F09", moment="a fan-in is released")
@pytest.mark.parametrize(("broker", "points"), CASES)
async def test_every_workflow_ends(cluster: Cluster, ledger: Ledger, broker: str, points: list[str]) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = "2"
    if broker == "postgres":
        cluster.env["ACCEPTED_BROKER_URL"] = "postgres"
    await cluster.start(workers=1)
    failpoints = [cluster.failpoint(point) for point in points]
    await asyncio.gather(*(cluster.add_worker(env=failpoint.env) for failpoint in failpoints))
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=30) as client:
        for jobs in (DIAMOND, WIDE, DIAMOND):
            answer = await client.post("/workflows", json={"jobs": jobs})
            assert answer.status_code == 202, answer.text
    await ledger.drained(WITHIN)
    assert all(failpoint.reached for failpoint in failpoints), "nobody died"
    assert [tuple(row) for row in await ledger.fetch(ENDS)] == [("succeeded", 2 * len(DIAMOND) + len(WIDE))]
