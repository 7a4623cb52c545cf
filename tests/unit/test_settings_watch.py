"""A copy of settings: read once for all who need it, and never taken for newer than it is."""

import asyncio

import pytest

from accepted.errors import LedgerUnavailable
from accepted.services.settings_watch import SettingsCopy


class Ledger:
    """One setting. A read takes two turns of the event loop, and has what was there at its first."""

    def __init__(self) -> None:
        self.setting = self.copied = self.reads = 0
        self.copy = SettingsCopy(self._read)
        self.fails = False

    async def _read(self) -> None:
        self.reads += 1
        found = self.setting
        await asyncio.sleep(0)
        if self.fails:
            raise LedgerUnavailable
        self.copied = found


async def test_all_who_need_it_wait_for_one_read() -> None:
    ledger = Ledger()
    await asyncio.gather(*(ledger.copy.refresh() for _ in range(10)))
    await ledger.copy.refresh()
    assert (ledger.copy.fresh, ledger.reads) == (True, 1)


async def test_a_change_during_a_read_is_read() -> None:
    ledger = Ledger()
    refreshing = asyncio.create_task(ledger.copy.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ledger.reads == 1, "the read has begun"
    ledger.setting = 1
    ledger.copy.forget()
    await refreshing
    assert (ledger.copy.fresh, ledger.copied, ledger.reads) == (True, 1, 2)


async def test_a_stream_of_changes_holds_nobody_up() -> None:
    """Settings may change faster than they are read: in the end, a read that began after the call is enough."""
    ledger = Ledger()

    async def keep_changing() -> None:
        while True:
            ledger.copy.forget()
            await asyncio.sleep(0)

    changing = asyncio.create_task(keep_changing())
    await asyncio.sleep(0)
    ledger.setting = 1
    try:
        await asyncio.wait_for(ledger.copy.refresh(), 1)
    finally:
        changing.cancel()
    assert (ledger.copied, ledger.copy.fresh) == (1, False)


async def test_all_who_wait_share_its_failure() -> None:
    """A silent ledger costs them its timeout once, not once for each that came before."""
    ledger = Ledger()
    ledger.fails = True
    results = await asyncio.gather(*(ledger.copy.refresh() for _ in range(10)), return_exceptions=True)
    assert {type(result) for result in results} == {LedgerUnavailable}
    assert ledger.reads == 1


async def test_who_gives_up_does_not_stop_the_others() -> None:
    ledger = Ledger()
    first, second = (asyncio.create_task(ledger.copy.refresh()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert (ledger.copy.fresh, ledger.reads) == (True, 1)


async def test_a_failed_read_leaves_it_out_of_date() -> None:
    ledger = Ledger()
    ledger.fails = True
    with pytest.raises(LedgerUnavailable):
        await ledger.copy.refresh()
    assert not ledger.copy.fresh
    ledger.fails = False
    await ledger.copy.refresh()
    assert ledger.copy.fresh
