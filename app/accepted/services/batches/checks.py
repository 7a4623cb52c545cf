"""The bodies of POST /batches and POST /workflows (contract section 4), and their checks before they are accepted.

Each member is checked as a job is, and the edges of a workflow as a whole. Errors are collected over the whole batch;
the pointer of each begins with that of its member.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation, StrictStr

from accepted.domain.batch import NewBatch, Node, OnFailure, Spread, flaws, in_order
from accepted.domain.ids import new_id
from accepted.domain.job import NewJob
from accepted.errors import FieldError, InvalidRequest, TooLarge
from accepted.services.jobs.checks import JobChecks
from accepted.services.jobs.placement import line_of
from accepted.services.jobs.requests import YEAR, JobRequest, Moment, Name, Number, distinct
from accepted.storage.jobs.ordering import Line
from accepted.tracing import context

MAX_JOBS = 10_000
"""Members of a batch in one JSON body, which is held in memory whole."""

MAX_LISTED = 100
"""Errors in one answer. The rest of the batch is not checked then."""

MAX_IN_LINE = 10_000
"""Members of a batch in which one has an `ordering_key`: its lines are locked while the batch is inserted, and no other
transaction adds a job to them or ends one."""


class BatchOptions(BaseModel):
    """The fields of a batch besides its jobs."""

    model_config = ConfigDict(extra="forbid")

    spread_over: Annotated[Number, Field(ge=0, le=YEAR, description="seconds")] | None = None
    start_at: Moment | None = None
    callback_url: Annotated[StrictStr, Field(max_length=2048)] | None = None
    on_failure: OnFailure = "continue"


class BatchQuery(BatchOptions):
    """The same fields in a query, where a number is text."""

    spread_over: Annotated[float, Field(ge=0, le=YEAR, allow_inf_nan=False, description="seconds")] | None = None


class BatchRequest(BatchOptions):
    """A batch of jobs to accept, all or none. Each member is checked as POST /jobs checks a job."""

    model_config = ConfigDict(title="BatchRequest")

    jobs: Annotated[list[SkipValidation[JobRequest]], Field(min_length=1, max_length=MAX_JOBS)]


class WorkflowJobRequest(JobRequest):
    """A job of a workflow: it runs when all jobs that it depends on have succeeded."""

    model_config = ConfigDict(title="WorkflowJobRequest")

    ref: Name
    depends_on: Annotated[list[Name], Field(max_length=MAX_JOBS), AfterValidator(distinct)] = Field(
        default_factory=list
    )


class WorkflowRequest(BatchOptions):
    """A workflow to accept, all or nothing: a batch whose jobs have names and wait for each other."""

    model_config = ConfigDict(title="WorkflowRequest")

    jobs: Annotated[list[SkipValidation[WorkflowJobRequest]], Field(min_length=1, max_length=MAX_JOBS)]


class Members:
    """Checks the members of one batch, in order."""

    def __init__(
        self,
        checks: JobChecks,
        tenant: str,
        options: BatchOptions,
        traceparent: str | None,
        model: type[JobRequest] = JobRequest,
        not_allowed: Sequence[str] = ("unique",),
    ) -> None:
        """`not_allowed`: fields that a member cannot have. Raises `InvalidRequest` for wrong options."""
        self._checks = checks
        self._tenant = tenant
        self._options = options
        self._traceparent = context.traceparent(traceparent)
        self._model = model
        self._not_allowed = not_allowed
        self._id = new_id()
        self._spreads = options.spread_over is not None or options.start_at is not None
        self.errors: list[FieldError] = []
        self.queues: Counter[str] = Counter()
        self.ordering_lines: set[Line] = set()
        self.total = 0
        _check_moments(options)
        checks.check_callback(options.callback_url)

    @property
    def spread(self) -> Spread:
        return Spread(self._options.start_at, float(self._options.spread_over or 0))

    @property
    def too_many_errors(self) -> bool:
        return len(self.errors) >= MAX_LISTED

    def refuse(self, *found: FieldError) -> None:
        """Add errors. Those beyond `MAX_LISTED` are dropped."""
        self.errors += found
        del self.errors[MAX_LISTED:]

    async def check(self, parsed: Any, pointer: str, where: str = "") -> NewJob | None:
        """The member that `parsed` describes; None if it, or a member before it, has an error.

        `where` begins the detail of each error. Raises `TooLarge`.
        """
        self.total += 1
        try:
            job = await self._checked(parsed)
        except InvalidRequest as refused:
            self.refuse(*(FieldError(pointer + error.pointer, where + error.detail) for error in refused.errors))
            return None
        except TooLarge as refused:
            raise TooLarge(f"{where or pointer + ': '}{refused.detail}") from None
        if self.errors:
            return None
        self.queues[job.queue] += 1
        if (line := line_of(job)) is not None:
            self.ordering_lines.add(line)
        if self.ordering_lines and self.total > MAX_IN_LINE:
            raise TooLarge(f"more than {MAX_IN_LINE} jobs in a batch in which some have an ordering_key")
        return msgspec.structs.replace(job, batch_id=self._id)

    def batch(self) -> NewBatch:
        """The batch whose members were checked. Raises `InvalidRequest` with all errors."""
        if self.errors:
            raise InvalidRequest(self.errors)
        return NewBatch(
            id=self._id, tenant=self._tenant, total=self.total, on_failure=self._options.on_failure,
            callback_url=self._options.callback_url,
        )  # fmt: skip

    async def _checked(self, parsed: Any) -> NewJob:
        if isinstance(parsed, dict):
            refused = [FieldError(f"/{name}", "is not allowed here") for name in self._not_allowed if parsed.get(name)]
            if self._spreads:
                refused += [
                    FieldError(f"/{name}", "the batch says when its jobs run: spread_over, start_at")
                    for name in ("run_at", "delay")
                    if parsed.get(name) is not None
                ]
            if refused:
                raise InvalidRequest(refused)
        return await self._checks.check(self._tenant, parsed, self._traceparent, self._model)


class Workflow(msgspec.Struct, frozen=True):
    """`jobs`, each after the jobs that it needs, with rising ids; `edges` are (needs, job_id)."""

    jobs: list[NewJob]
    edges: list[tuple[UUID, UUID]]


def workflow(nodes: Sequence[Node], jobs: Sequence[NewJob]) -> Workflow:
    """The workflow of `jobs`, each with its node. Raises `InvalidRequest` for refs that are wrong and for cycles."""
    if found := flaws(nodes, MAX_LISTED):
        raise InvalidRequest([FieldError(f"/jobs{flaw.pointer}", flaw.detail) for flaw in found])
    order = in_order(nodes)
    ids = {nodes[number].ref: id for number, id in zip(order, sorted(job.id for job in jobs), strict=True)}
    return Workflow(
        jobs=[_member(jobs[number], nodes[number], ids) for number in order],
        edges=[(ids[ref], ids[nodes[number].ref]) for number in order for ref in nodes[number].depends_on],
    )


def _check_moments(options: BatchOptions) -> None:
    """As for a single job: none more than 366 days ahead."""
    latest = datetime.now(UTC) + timedelta(seconds=YEAR)
    if options.start_at is None:
        return
    if options.start_at > latest:
        raise InvalidRequest([FieldError("/start_at", "must be at most 366 days ahead")])
    if options.start_at + timedelta(seconds=float(options.spread_over or 0)) > latest:
        raise InvalidRequest([FieldError("/spread_over", "must end at most 366 days ahead")])


def _member(job: NewJob, node: Node, ids: dict[str, UUID]) -> NewJob:
    return msgspec.structs.replace(job, id=ids[node.ref], ref=node.ref, blockers=len(node.depends_on))
