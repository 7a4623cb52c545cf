"""Whether an API process attends to others meanwhile: how fast it answers, how late its loop is, how much it grows."""

import asyncio
import re
from pathlib import Path
from time import perf_counter

import httpx

from tests.support.service.running_service import Running

ASKED_EVERY = 0.01
"""Seconds between two requests for /healthz."""


async def longest_answer(url: str) -> float:
    """Until cancelled: the longest time that /healthz took, in seconds."""
    longest = 0.0
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            while True:
                began = perf_counter()
                assert (await http.get("/healthz")).status_code == 200
                longest = max(longest, perf_counter() - began)
                await asyncio.sleep(ASKED_EVERY)
    except asyncio.CancelledError:
        return longest


async def held(http: httpx.AsyncClient, bound: float) -> int:
    """How often the API's event loop was late by more than `bound` seconds, a bucket of the metric."""
    text = (await http.get("/metrics")).text
    counts = {
        le: int(float(count))
        for le, count in re.findall(r'accepted_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    }
    return counts["+Inf"] - counts[str(bound)]


def forget_peak(running: Running) -> None:
    Path(f"/proc/{running.services['api'].pid}/clear_refs").write_text("5")


def peak(running: Running) -> int:
    """The most memory that the API has had since `forget_peak`, in bytes."""
    status = Path(f"/proc/{running.services['api'].pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
