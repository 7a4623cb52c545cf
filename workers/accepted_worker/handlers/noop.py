"""The job type `noop`: for trying things out, and for measuring what a job costs."""

from typing import Any

from accepted import Context, job


@job("noop")
async def noop(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Succeeds at once."""
    return {}
