"""Row 6: lines a second of one request with a million jobs, committed, and what it costs the API process in memory."""

from tests.benchmarks.figures import Failed, Row
from tests.benchmarks.stage import Stage
from tests.support.clients.uploads import peak_of, upload

LINES = 1_000_000
WARMUP_LINES = 2_000
MEMORY_GOAL = 200.0  # MB
MB = 1e6


async def uploaded(stage: Stage) -> list[Row]:
    """From the first line sent until the 202, with nobody at work beside it."""
    async with stage.api() as (api, port):
        url = f"http://127.0.0.1:{port}"
        await upload(url, WARMUP_LINES)
        async with peak_of(api.pid) as peak:
            answer, seconds = await upload(url, LINES)
    if answer.status_code != 202:
        raise Failed(f"{LINES} lines were answered with {answer.status_code}: {answer.text}")
    await stage.forget()
    grown = peak.grown / MB
    return [
        Row(f"NDJSON lines/s, {LINES:,} in one request, until the 202", f"{LINES / seconds:,.0f}/s"),
        Row("memory that the API grew by meanwhile, MB", f"{grown:.0f}", "< 200", grown < MEMORY_GOAL),
    ]
