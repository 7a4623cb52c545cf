"""The job type `sleep`, for trying things out.

Who may submit one holds a slot for a day. So `accepted_worker.handlers` is without it, unless authentication is off.
"""

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from accepted import Context, job
from accepted.domain.failures import TransientError

DAY = 86400.0  # seconds


class Sleep(BaseModel):
    """How long to sleep, in seconds, and on how many first attempts to fail afterwards."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(1.0, ge=0, le=DAY)
    fail_attempts: int = Field(0, ge=0, le=100)


@job("sleep", timeout=DAY)
async def sleep(payload: Sleep, ctx: Context) -> dict[str, Any]:
    """Sleeps for `seconds`, then succeeds; the first `fail_attempts` attempts fail."""
    await asyncio.sleep(payload.seconds)
    if ctx.job.attempt <= payload.fail_attempts:
        raise TransientError(f"asked to fail on attempt {ctx.job.attempt}")
    return {"slept": payload.seconds}
