"""A later version of a type of `misbehaving`: for `ACCEPTED_HANDLERS` of a worker that takes over from an older one."""

from accepted import Context, job
from tests.support.handlers.misbehaving import TWICE, Call, call


class LaterCall(Call):
    """Which asks for more than its jobs had to have until now."""

    why: str


@job("calls", retry=TWICE)
def calls(payload: LaterCall, ctx: Context) -> None:
    """Calls, if it is told why."""
    call(payload)
