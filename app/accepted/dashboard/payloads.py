"""Payloads as pages show them, and as they are again when a form comes back: without and with what their type hides.

A type that is no longer registered hides nothing, because nobody knows its schema any more.
"""

from typing import Any

import msgspec

from accepted.dashboard.hiding import HIDDEN, Hiding, Members, NothingToKeep
from accepted.dashboard.visit import Visit
from accepted.domain.job import WEBHOOK_TYPE


class PayloadTypes:
    """The job types of the tenant, and what each of them hides."""

    def __init__(self, listed: dict[str, Any]) -> None:
        """`listed`: the answer of `GET /job-types`."""
        self._schemas = {one["name"]: one["payload_schema"] for one in listed["items"]}

    def masked(self, type_: str, payload: bytes) -> bytes:
        """The payload of a job of this type as pages show it. A webhook tells of another job, with its payload."""
        return self._masked_delivery(payload) if type_ == WEBHOOK_TYPE else self._hiding(type_).masked(payload)

    def restored(self, type_: str, typed: bytes, stored: bytes) -> bytes:
        """The payload that was typed into a form which had the masked one. Raises `NothingToKeep`."""
        return self._hiding(type_).restored(typed, stored)

    def _hiding(self, type_: str) -> Hiding:
        return Hiding(self._schemas.get(type_, {}))

    def _masked_delivery(self, payload: bytes) -> bytes:
        """Its `event` is the text of the request, which a signature covers."""
        members = _members(payload)
        if "event" in members:
            text = msgspec.json.decode(members["event"], type=str)
            members["event"] = _raw(self._masked_event(text))
        return msgspec.json.encode(members)

    def _masked_event(self, text: str) -> str:
        event = _members(text.encode())
        about = _members(event["data"])
        if "payload" in about:
            type_ = msgspec.json.decode(about["type"], type=str)
            about["payload"] = msgspec.Raw(self.masked(type_, bytes(about["payload"])))
        return msgspec.json.encode(event | {"data": about}).decode()


async def types_of(visit: Visit) -> PayloadTypes:
    return PayloadTypes(await visit.get("/job-types"))


def not_there(error: NothingToKeep) -> str:
    """What to do about a mask that stands for nothing."""
    return f"{error}: {HIDDEN} stands for a hidden value, and there is none here yet: write the value itself"


def _members(raw: bytes) -> Members:
    return msgspec.json.decode(raw, type=Members)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
