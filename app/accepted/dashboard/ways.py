"""Which page shows what the API has at a path."""

import re
from typing import Any

from accepted.domain.ids import link

_PAGES = (
    (r"/jobs(\?.*)", r"/ui/jobs\1"),
    (r"/jobs/([0-9a-f-]{36})(/.*)?", r"/ui/jobs/\1"),
    (r"/workers", "/ui/workers"),
    (r"/queues/([^/]+)", r"/ui/queues/\1"),
    (r"/dead-letters(\?.*)?", r"/ui/dead-letters\1"),
    (r"/schedules/([^/]+)(/.*)?", r"/ui/schedules/\1"),
    (r"/(targets|webhook-deliveries)(\?.*)?", "/ui/webhooks"),
)
"""Paths of the API, as patterns, and those of their pages."""


def page_about(problem: dict[str, Any]) -> str:
    """The page, or the answer of the API if there is no page, that shows more of a problem of `GET /status`."""
    path = str(problem["link"]).removeprefix(link(""))
    for pattern, page in _PAGES:
        if found := re.fullmatch(pattern, path):
            return found.expand(page)
    return path
