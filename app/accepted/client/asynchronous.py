"""`AsyncClient`: `Client` for code on an event loop."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Self, TypeVar, Unpack, overload

from accepted.client import batches, events, jobs
from accepted.client.batches import WorkflowJobs
from accepted.client.connection import Connection
from accepted.client.fields import BatchFields, JobEvent, JobFields
from accepted.client.loop_driver import LoopDriver
from accepted.client.options import JobKind, ManyOptions, SearchFilters, SubmitOptions

Payload = TypeVar("Payload")


class AsyncClientJob(JobFields):
    """As `ClientJob`, for `async` code."""

    def __init__(self, driver: LoopDriver, document: dict[str, Any]) -> None:
        super().__init__(document)
        self._driver = driver

    async def wait(self, timeout: float | None = None) -> Self:
        """This job once it has succeeded. `timeout` in seconds; None waits as long as it takes.

        Raises `JobFailed` if it ends otherwise, `WaitTimeout`, and what `Client.get` raises.
        """
        await self._driver.run(jobs.wait(self._driver.limits, self, timeout))
        return jobs.succeeded(self)

    async def refresh(self) -> Self:
        """This job as it is now."""
        self.take(await self._driver.run(jobs.get(self._driver.limits, self.id)))
        return self

    async def cancel(self) -> Self:
        """Cancel it, as `Client.cancel`."""
        self.take(await self._driver.run(jobs.cancel(self._driver.limits, self.id)))
        return self

    async def retry(self) -> Self:
        """Run it again, as `Client.retry`."""
        self.take(await self._driver.run(jobs.retry(self._driver.limits, self.id)))
        return self

    def events(self) -> AsyncIterator[JobEvent]:
        """Its changes of status and its progress, from the first to its end. A broken connection is made again."""
        return self._driver.each(events.events(self._driver.limits, self.id))


class AsyncClientBatch(BatchFields):
    """As `ClientBatch`, for `async` code."""

    def __init__(self, driver: LoopDriver, document: dict[str, Any]) -> None:
        super().__init__(document)
        self._driver = driver

    async def wait(self, timeout: float | None = None) -> Self:
        """This batch once all its jobs have finished, however they ended: `succeeded` and `counts` say how.

        `timeout` in seconds; None waits as long as it takes. Raises `WaitTimeout`.
        """
        await self._driver.run(batches.wait(self._driver.limits, self, timeout))
        return self

    async def refresh(self) -> Self:
        """This batch as it is now."""
        self.take(await self._driver.run(batches.get(self._driver.limits, self.id)))
        return self

    async def cancel(self) -> Self:
        """Cancel every job of it that has not finished. Raises `ConflictingState` if all have."""
        self.take(await self._driver.run(batches.cancel(self._driver.limits, self.id)))
        return self


class AsyncClientWorkflow(WorkflowJobs):
    """As `ClientWorkflow`, for `async with`."""

    batch: AsyncClientBatch

    def __init__(self, driver: LoopDriver, options: ManyOptions) -> None:
        super().__init__()
        self._driver = driver
        self._options = options

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            steps = batches.submit_workflow(self._driver.limits, self, self._options)
            self.batch = AsyncClientBatch(self._driver, await self._driver.run(steps))


class AsyncClient:
    """As `Client`: the same operations, options and errors; each call is awaited, each iteration is `async for`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        max_tries: int = 10,
        max_seconds: float = 60.0,
    ) -> None:
        self._driver = LoopDriver(Connection.to(url, api_key, timeout, max_tries, max_seconds))

    @overload
    async def submit(self, type: str, payload: Any = None, **options: Unpack[SubmitOptions]) -> AsyncClientJob: ...

    @overload
    async def submit(
        self, type: Callable[[Payload, Any], Any], payload: Payload, **options: Unpack[SubmitOptions]
    ) -> AsyncClientJob: ...

    async def submit(self, type: JobKind, payload: Any = None, **options: Unpack[SubmitOptions]) -> AsyncClientJob:
        """Submit a job: `type` names its type, or is the handler's function. When this returns, it is accepted.

        `payload` is a dict, or what becomes one: a Pydantic model, a dataclass. Options are the fields of POST /jobs
        and `idempotency_key`. Raises `ValidationFailed` and other `RequestProblem`s, and `ServiceUnreachable`.
        """
        return self._job(await self._driver.run(jobs.submit(self._driver.limits, type, payload, options)))

    async def get(self, job_id: str) -> AsyncClientJob:
        """A job as it is now. Raises `NotThere`, and `NoLongerThere` for one past its retention."""
        return self._job(await self._driver.run(jobs.get(self._driver.limits, job_id)))

    def jobs(self, **filters: Unpack[SearchFilters]) -> AsyncIterator[AsyncClientJob]:
        """All jobs that match, newest first, fetched page by page. They have `payload` and `result` if `include` says
        so."""
        return (self._job(one) async for one in self._driver.each(jobs.search(self._driver.limits, filters)))

    async def cancel(self, job_id: str) -> AsyncClientJob:
        """Cancel a job: at once if it waits; a running one ends soon. Raises `ConflictingState` if it has finished."""
        return self._job(await self._driver.run(jobs.cancel(self._driver.limits, job_id)))

    async def retry(self, job_id: str) -> AsyncClientJob:
        """Run a failed, cancelled or expired job again. Raises `ConflictingState` for any other."""
        return self._job(await self._driver.run(jobs.retry(self._driver.limits, job_id)))

    async def batch(self, members: Iterable[Mapping[str, Any]], **options: Unpack[ManyOptions]) -> AsyncClientBatch:
        """Submit up to 1,000,000 jobs, all or none, each a dict as the body of POST /jobs. `type` may be the handler's
        function, `payload` a model. With more than 10,000 jobs a pointer of an error has the number of the line.
        """
        steps = batches.submit(self._driver.limits, members, options)
        return AsyncClientBatch(self._driver, await self._driver.run(steps))

    async def get_batch(self, batch_id: str) -> AsyncClientBatch:
        """A batch or workflow as it is now. Raises `NotThere` and `NoLongerThere`."""
        return AsyncClientBatch(self._driver, await self._driver.run(batches.get(self._driver.limits, batch_id)))

    def workflow(self, **options: Unpack[ManyOptions]) -> AsyncClientWorkflow:
        """Jobs that depend on each other, all or none: `async with client.workflow() as flow: a = flow.add(…);
        flow.add(…, after=[a])`. After the block `flow.batch` is the workflow."""
        return AsyncClientWorkflow(self._driver, options)

    async def webhook_secrets(self) -> list[str]:
        """The secrets that sign the tenant's webhooks, the newest first, for `accepted.webhooks.verify`.

        Needs the scope `webhooks:read`.
        """
        return await self._driver.run(jobs.webhook_secrets(self._driver.limits))

    async def close(self) -> None:
        """Close its connections."""
        await self._driver.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _job(self, document: dict[str, Any]) -> AsyncClientJob:
        return AsyncClientJob(self._driver, document)
