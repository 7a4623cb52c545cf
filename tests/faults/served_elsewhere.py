"""A job type on the queue of the fault tests that only one of their workers has a handler for."""

from accepted import Context, job
from tests.faults import effects

TYPE = "effect.elsewhere"


@job(TYPE, queue=effects.QUEUE)
async def elsewhere(payload: dict, ctx: Context) -> dict:  # type: ignore[type-arg]
    """Leaves its traces as `effect` does."""
    return await effects.effect(effects.Effect(), ctx)
