"""The filters of GET /jobs, which select the jobs of an act on many as well (`accepted.api.jobs.many`)."""

from collections.abc import Iterable, Sequence
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from accepted.api.http.parameters import without_nul
from accepted.domain.failures import FailureClass
from accepted.domain.job import QUEUE_PATTERN, Status
from accepted.domain.json_text import escape_pointer
from accepted.errors import FieldError, InvalidRequest
from accepted.services.jobs.requests import Metadata, Moment
from accepted.storage.jobs.job_filter import JobFilter

MAX_TEXT = 200
"""Characters of `error_text`."""


def several(names: Iterable[str]) -> str:
    """The pattern of one or more of these names, with commas between them."""
    known = list(names)
    return f"^({'|'.join(known)})(,({'|'.join(known)})){{0,{len(known) - 1}}}$"


def _pairs_without_nul(pairs: dict[str, str]) -> dict[str, str]:
    return {key: without_nul(value) for key, value in pairs.items()}


_Type = Annotated[str, Field(max_length=100), AfterValidator(without_nul)]
_Tag = Annotated[str, Field(max_length=64), AfterValidator(without_nul)]
Statuses = Annotated[str, Field(pattern=several(Status), description="one or several, with commas between them")]
_Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(without_nul)]
_Pairs = Annotated[Metadata, AfterValidator(_pairs_without_nul)]


class JobFilters(BaseModel):
    """Selects the jobs that match all given filters."""

    status: Statuses | None = None
    queue: Annotated[str, Field(pattern=QUEUE_PATTERN)] | None = None
    type: _Type | None = None
    tag: _Tag | None = None
    batch_id: UUID | None = None
    parent_id: UUID | None = None
    root_id: Annotated[UUID, Field(description="the root itself is found, too")] | None = None
    error_class: FailureClass | None = None
    error_text: Annotated[_Text, Field(description="in the messages of failed jobs, in any case")] | None = None
    metadata: Annotated[_Pairs, Field(description="`metadata[key]=value` in a query")] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    finished_after: Moment | None = None
    finished_before: Moment | None = None

    @property
    def statuses(self) -> list[str] | None:
        """The statuses that are asked for."""
        return self.status.split(",") if self.status else None

    def wanted(self, indexed: Sequence[str]) -> JobFilter:
        """Which jobs are asked for. `indexed` are the keys of ACCEPTED_METADATA_KEYS: if there are any, a search by
        another key is refused with `InvalidRequest`, because it would not be the quick one that the operator chose.
        """
        unknown = [key for key in self.metadata or () if key not in indexed]
        if indexed and unknown:
            detail = f"is no key by which this service finds jobs: ACCEPTED_METADATA_KEYS has {', '.join(indexed)}"
            raise InvalidRequest([FieldError(f"/metadata/{escape_pointer(key)}", detail) for key in unknown])
        fields = self.model_dump(include=set(JobFilter.__struct_fields__))
        return JobFilter(statuses=self.statuses, **fields)
