"""Searches by GET /jobs, page by page, and ids as they find them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from accepted.domain.ids import floor_at
from tests.support.clients.client import Client
from tests.support.ledger.dead_letters import from_now


async def pages(client: Client, **filters: Any) -> list[dict[str, Any]]:
    """Every page of the search, by `next`; the Link leads to the same."""
    found = []
    cursor: dict[str, str] = {}
    while not found or cursor:
        answer = await client.get("/jobs", params=filters | cursor)
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        following = answer.json()["next"]
        assert (following is None) == ("link" not in answer.headers)
        cursor = {} if following is None else {"cursor": following}
    return found


def ids(found: Sequence[dict[str, Any]]) -> list[UUID]:
    return [UUID(job["id"]) for page in found for job in page["items"]]


def newest_first(*found: UUID) -> list[UUID]:
    return sorted(found, reverse=True)


def at_hour(hours: float) -> UUID:
    """The id of a job that came so many hours from now."""
    return floor_at(from_now(hours * 3600))
