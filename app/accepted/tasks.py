"""What asyncio's own tasks leave to be wished for."""

import asyncio


def told_to_end() -> bool:
    """Whether this task was cancelled, even if nothing was raised in it.

    A cancel that arrives just as what is awaited is done gets lost in `asyncio.wait_for` before Python 3.12, and in
    what aiormq makes of it. A loop that asks this once a turn ends all the same; one that does not may never end.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
