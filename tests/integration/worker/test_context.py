"""What a handler has without asking: its job, and a log that says whose it is."""

from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from accepted import Context, job
from tests.support.service.worker_with_handlers import worker_with_handlers


async def test_a_line_of_its_log_says_whose_it_is_and_nothing_of_the_payload(
    engine: AsyncEngine, database_url: str
) -> None:
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
