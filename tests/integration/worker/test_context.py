"""The job and the log of a handler's context."""

from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from accepted import Context, job
from tests.support.service.worker_with_handlers import worker_with_handlers


async def test_a_log_line_names_the_job_and_has_nothing_of_the_payload(engine: AsyncEngine, database_url: str) -> None:
    @job("logs", queue="q")
    async def logs(payload: dict[str, str], ctx: Context) -> None:
        ctx.log.info("here", more=1)

    with capture_logs() as lines:
        async with worker_with_handlers(engine, database_url, logs) as shop:
            done = await shop.finish("logs", {"secret": "CanaryValue7"})
    (line,) = [line for line in lines if line["event"] == "here"]
    assert line == {
        "event": "here", "log_level": "info", "more": 1, "job_id": str(done.id), "type": "logs", "attempt": 1,
    }  # fmt: skip
    assert "CanaryValue7" not in repr(lines)
