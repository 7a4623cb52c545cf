"""A job that runs again takes along what its end took along: whoever was cancelled behind it waits for it again."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.errors import Conflict
from accepted.services.jobs import placement
from accepted.storage.jobs import manual_retry, ordering, workflow_repair
from accepted.storage.jobs.manual_retry import Chosen
from accepted.storage.jobs.ordering import Line


async def run_again(conn: AsyncConnection, chosen: Sequence[Chosen]) -> None:
    """Reset these jobs, which are chosen and locked, and put back what waits for them. The caller commits.

    Each joins its line at the end. Raises `Conflict` if one of them needs a job that has not succeeded and will not.
    """
    ids = [one.id for one in chosen]
    if broken := await workflow_repair.broken(conn, ids):
        raise Conflict(f"the job {broken}: retry that one, and this one waits for it again")
    moments = {one.id: one.due_at for one in chosen}
    if concerned := [one.id for one in chosen if one.has_dependents]:
        await workflow_repair.lock(conn, concerned)
        members = await workflow_repair.with_those_behind(conn, concerned)
        await _rejoin(conn, {one.id: one.line for one in members if one.line is not None})
        await workflow_repair.mend(conn, [one.id for one in members])
        moments = {one.id: one.run_at for one in members} | moments
    await manual_retry.again(conn, list(moments.items()))


async def _rejoin(conn: AsyncConnection, lines: dict[UUID, Line]) -> None:
    """Whoever has not had his turn yet gives up his place: those behind him wait for the one before him."""
    if not lines:
        return
    await ordering.lock(conn, {line: job_id for job_id, line in sorted(lines.items(), key=lambda item: item[1])})
    for job_id in await ordering.in_line(conn, list(lines)):
        await ordering.leave(conn, job_id)
    await placement.append(conn, lines)
