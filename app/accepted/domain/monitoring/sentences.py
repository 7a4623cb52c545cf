"""Sentences about queues, workers and hosts that several answers share, and how they write times and numbers."""

from datetime import datetime


def paused(queue: str) -> str:
    return f"Queue {queue} is paused."


def unserved_queue(queue: str) -> str:
    return f"No live worker serves queue {queue}."


def unserved_type(queue: str, type: str) -> str:
    return f"No live worker of queue {queue} has a handler for type {type}."


def starts_at_most(queue: str, jobs: int, per: float) -> str:
    return f"Queue {queue} starts at most {jobs} jobs in {per:g} s"


def runs_at_most(queue: str, most: int, running: int) -> str:
    return f"Queue {queue} runs at most {count(most, 'job')} at once, and {running} are running"


def held(host: str, until: datetime | None, why: str) -> str:
    return f"Nothing is sent to {host} before {at(until)}: {why}"


def waiting(jobs: int) -> str:
    return f"{count(jobs, 'job')} {'waits' if jobs == 1 else 'wait'}"


def at(moment: datetime | None) -> str:
    return "a time not known" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def lasting(seconds: float) -> str:
    """A length of time, to two digits at most: 45 s, 12 min, 3 h, 2 days."""
    for unit, length, next_length in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172800.0)):
        if seconds < next_length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400.0:.0f} days"
