"""How the scheduler runs its loops."""

import asyncio
from contextlib import suppress

from accepted_worker.scheduler import base


class LosesACancel:
    """A loop whose round loses a cancellation, as one that awaits the broker's driver may."""

    name = "loses-a-cancel"

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.rounds = 0

    async def run_once(self) -> int:
        self.rounds += 1
        self.begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return 0

    def pause(self, done: int) -> float:
        return 0.0


async def test_a_lost_cancel_ends_a_loop_after_its_round() -> None:
    loop = LosesACancel()
    running = asyncio.create_task(base.run([loop]))
    await loop.begun.wait()
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=5)
    assert done == {running}
    assert loop.rounds == 1
