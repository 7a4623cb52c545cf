"""What may be asked of dead letters, and the shapes of the answers."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, field_validator

from accepted.api.http.parameters import Page
from accepted.domain.failures import FailureClass
from accepted.domain.job import QUEUE_PATTERN
from accepted.services.jobs.requests import YEAR, Moment, Number
from accepted.storage.dead_letters import LetterFilter

MAX_IDS = 1000
"""Ids in one body; whoever means more says so by a filter."""

MAX_IDS_IN_QUERY = 50
"""Room for them is left in an address by every proxy."""


def _separated(value: object) -> object:
    """`ids=a,b` says the same as `ids=a&ids=b`."""
    if not isinstance(value, list):
        return value
    return [part for one in value for part in (one.split(",") if isinstance(one, str) else [one])]


def _never_null(schema: dict[str, Any]) -> None:
    """A field that may be left out may not be null for that."""
    for field in schema["properties"].values():
        if field.get("default", field) is None:
            del field["default"]
            (member,) = [one for one in field.pop("anyOf") if one != {"type": "null"}]
            field.update(member)


class Asked(BaseModel):
    """Known fields only, and none of them null: that would select everything where somebody meant to narrow it down."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_never_null)

    @field_validator("*", mode="before")
    @classmethod
    def _is_given(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null: leave it out")
        return value


class Selection(Asked):
    """Which letters: those that match all that is given. Those of internal types only if they are named."""

    queue: Annotated[StrictStr, Field(pattern=QUEUE_PATTERN)] | None = None
    type: Annotated[StrictStr, Field(max_length=100)] | None = None
    class_: FailureClass | None = Field(None, alias="class")
    before: Moment | None = Field(None, description="failed earlier than this")
    ids: Annotated[list[UUID], Field(max_length=MAX_IDS)] | None = None

    @field_validator("type")
    @classmethod
    def _holds_no_nul(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("must not hold NUL")
        return value

    def filter(self) -> LetterFilter:
        return LetterFilter(queue=self.queue, type=self.type, class_=self.class_, before=self.before, ids=self.ids)


class LetterQuery(Page, Selection):
    """The query of GET /dead-letters."""

    ids: Annotated[list[UUID], Field(max_length=MAX_IDS_IN_QUERY), BeforeValidator(_separated)] | None = None
    group: Literal["error"] | None = None


class DiscardRequest(Selection):
    """Which letters to discard."""

    dry_run: StrictBool = Field(False, description="count only")


class ReplayRequest(DiscardRequest):
    """Which letters to replay, and how fast."""

    spread_over: Annotated[Number, Field(ge=0, le=YEAR, description="seconds over which the runs begin, evenly")] = 0.0


class EditRequest(Asked):
    """How to replay one letter."""

    payload: dict[str, Any] | None = Field(None, description="instead of the one that failed")


class LetterLinks(BaseModel):
    job: str
    attempts: str
    replay: str


class LetterView(BaseModel):
    """A failed job that somebody has still to decide about; `id` is the job's."""

    id: UUID
    job_id: UUID
    type: str
    queue: str
    class_: FailureClass = Field(alias="class")
    message: str
    attempt: int
    failed_at: datetime
    links: LetterLinks


class LetterPage(BaseModel):
    """A page of letters, the newest failure first; `next` is the cursor of the next one."""

    items: list[LetterView]
    next: str | None


class GroupView(BaseModel):
    """Letters that failed alike. In `message`, `…` stands for numbers and ids; `example` is the newest."""

    type: str
    queue: str
    class_: FailureClass = Field(alias="class")
    message: str
    count: int
    first_at: datetime
    last_at: datetime
    example: UUID


class GroupPage(BaseModel):
    """The largest groups first, as many as `limit`."""

    items: list[GroupView]
    next: None


class ReplayedView(BaseModel):
    matched: int
    replayed: int


class DiscardedView(BaseModel):
    matched: int
    discarded: int
