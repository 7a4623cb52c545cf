"""The pages that every page leads to."""

from collections.abc import Callable
from typing import NamedTuple


class MenuEntry(NamedTuple):
    """A page: its path, its name, and one of the scopes that it needs."""

    path: str
    name: str
    scopes: tuple[str, ...] = ("jobs:read",)


PAGES = [
    MenuEntry("/", "Overview"),
    MenuEntry("/ui/jobs", "Jobs"),
    MenuEntry("/ui/queues", "Queues"),
    MenuEntry("/ui/dead-letters", "Dead letters"),
    MenuEntry("/ui/schedules", "Schedules"),
    MenuEntry("/ui/batches", "Batches"),
    MenuEntry("/ui/webhooks", "Webhooks", ("jobs:read", "webhooks:read")),
    MenuEntry("/ui/workers", "Workers"),
    MenuEntry("/ui/keys", "Keys", ("admin",)),
    MenuEntry("/ui/audit", "Audit", ("admin",)),
    MenuEntry("/ui/submit", "Submit", ("jobs:write",)),
    MenuEntry("/ui/runbook", "Runbook"),
]


def entries(may: Callable[..., bool]) -> list[MenuEntry]:
    """What somebody sees who `may` use these scopes."""
    return [page for page in PAGES if may(*page.scopes)]
