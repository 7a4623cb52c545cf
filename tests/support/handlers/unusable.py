"""Handlers of types that no API can use, for `ACCEPTED_HANDLERS=…,tests.support.handlers.unusable`."""

from pydantic import BaseModel, Field

from accepted import Context, job


class Scan(BaseModel):
    document: str = Field(json_schema_extra={"type": "file"})


class Case(BaseModel):
    scans: list[Scan]


@job("scan")
async def scan(payload: Scan, ctx: Context) -> None: ...


@job("scan.all")
async def scan_all(payload: Case, ctx: Context) -> None: ...
