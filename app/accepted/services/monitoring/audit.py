"""Records who changed what, in the transaction of the act: what was done has a row, and what was not has none.

Who acts is a context variable, because any service may be an act, and most of its callers have no use for it. The API
sets it for each request, and a command that writes to the ledger sets it for itself.
"""

import getpass
import os
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from accepted.domain import json_text
from accepted.domain.ids import new_id
from accepted.domain.monitoring.audit import Action, AuditEntry
from accepted.storage.db.statements import Connection
from accepted.storage.monitoring import audit

MAX_IDS = 20
"""Ids in a detail. Of longer lists it has the first ones; `matched` and `done` say how many there were."""


class Actor(msgspec.Struct, frozen=True):
    """Who acts. Without a tenant of its own the actor belongs to the tenant that the act is about.

    `os_user` acts on the ledger itself, without a key and from no address.
    """

    tenant: str | None = None
    key_id: UUID | None = None
    key_name: str | None = None
    address: str | None = None
    os_user: str | None = None


_NOBODY = Actor()
Record: TypeAlias = Callable[[Connection, int], Awaitable[None]]
"""Records, in the transaction of an act on several jobs, on how many of them it was done. The caller commits."""

_actor: ContextVar[Actor] = ContextVar("actor", default=_NOBODY)


def act_as(actor: Actor) -> None:
    """Acts are this actor's from now on, in this task and in those that it starts."""
    _actor.set(actor)


def act_on_ledger() -> None:
    """Acts are those of the user of the operating system that runs this process."""
    act_as(Actor(os_user=_os_user()))


async def record(conn: Connection, action: Action, tenant: str, target: str | None = None, **detail: object) -> None:
    """Record an act of the current actor. `tenant` is the one that it is about. The caller commits.

    `detail` must hold neither secrets nor payloads.
    """
    await audit.put(conn, _entry(action, tenant, target, detail))


class RecordedPieces:
    """An act that is made in pieces, each in a transaction of its own. Its row says how much was done so far.

    `matched` is None where that is not known before.
    """

    def __init__(self, action: Action, tenant: str, wanted: msgspec.Struct, matched: int | None = None) -> None:
        self._detail = {"filter": _filters(wanted)} | ({} if matched is None else {"matched": matched})
        self._entry = _entry(action, tenant, None, self._detail)
        self._done = 0

    async def record(self, conn: Connection, done: int) -> None:
        """Record that this transaction does so many more. The caller commits. Nothing done is not recorded."""
        if not done:
            return
        self._done += done
        await audit.put(
            conn, msgspec.structs.replace(self._entry, detail=_encoded(self._detail | {"done": self._done}))
        )


def _entry(action: Action, tenant: str, target: str | None, detail: Mapping[str, object]) -> AuditEntry:
    actor = _actor.get()
    by = {} if actor.os_user is None else {"os_user": actor.os_user}
    return AuditEntry(
        id=new_id(), tenant=actor.tenant or tenant, key_id=actor.key_id, key_name=actor.key_name,
        address=actor.address, action=action, target=target, detail=_encoded({**by, **detail}),
    )  # fmt: skip


def _filters(wanted: msgspec.Struct) -> dict[str, Any]:
    """The filters that are given. Of metadata only the keys: a value may name the person who asked to be forgotten."""
    given = {name.rstrip("_"): value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    return {name: list(value)[:MAX_IDS] if isinstance(value, list | dict) else value for name, value in given.items()}


def _encoded(detail: Mapping[str, object]) -> str:
    return json_text.encode(detail).decode()


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"uid {os.getuid()}"
