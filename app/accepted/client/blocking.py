"""`Client`: submits jobs and waits for them, in code that blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, Unpack, overload

from accepted.client import batches, events, jobs
from accepted.client.batches import WorkflowJobs
from accepted.client.blocking_driver import BlockingDriver
from accepted.client.connection import Connection
from accepted.client.fields import BatchFields, JobEvent, JobFields
from accepted.client.options import JobKind, ManyOptions, SearchFilters, SubmitOptions

Payload = TypeVar("Payload")


class ClientJob(JobFields):
    """A job, as the service showed it last. `wait` and `refresh` show it anew."""

    def __init__(self, driver: BlockingDriver, document: dict[str, Any]) -> None:
        super().__init__(document)
        self._driver = driver

    def wait(self, timeout: float | None = None) -> Self:
        """This job once it has succeeded. `timeout` in seconds; None waits as long as it takes.

        Raises `JobFailed` if it ends otherwise, `WaitTimeout`, and what `Client.get` raises.
        """
        self._driver.run(jobs.wait(self._driver.limits, self, timeout))
        return jobs.succeeded(self)

    def refresh(self) -> Self:
        """This job as it is now."""
        self.take(self._driver.run(jobs.get(self._driver.limits, self.id)))
        return self

    def cancel(self) -> Self:
        """Cancel it, as `Client.cancel`."""
        self.take(self._driver.run(jobs.cancel(self._driver.limits, self.id)))
        return self

    def retry(self) -> Self:
        """Run it again, as `Client.retry`."""
        self.take(self._driver.run(jobs.retry(self._driver.limits, self.id)))
        return self

    def events(self) -> Iterator[JobEvent]:
        """Its changes of status and its progress, from the first to its end. A broken connection is made again."""
        return self._driver.each(events.events(self._driver.limits, self.id))


class ClientBatch(BatchFields):
    """A batch or workflow, as the service showed it last. `wait` and `refresh` show it anew."""

    def __init__(self, driver: BlockingDriver, document: dict[str, Any]) -> None:
        super().__init__(document)
        self._driver = driver

    def wait(self, timeout: float | None = None) -> Self:
        """This batch once all its jobs have finished, however they ended: `succeeded` and `counts` say how.

        `timeout` in seconds; None waits as long as it takes. Raises `WaitTimeout`.
        """
        self._driver.run(batches.wait(self._driver.limits, self, timeout))
        return self

    def refresh(self) -> Self:
        """This batch as it is now."""
        self.take(self._driver.run(batches.get(self._driver.limits, self.id)))
        return self

    def cancel(self) -> Self:
        """Cancel every job of it that has not finished. Raises `ConflictingState` if all have."""
        self.take(self._driver.run(batches.cancel(self._driver.limits, self.id)))
        return self


class ClientWorkflow(WorkflowJobs):
    """A workflow being written: leaving the `with` block without an error submits it, and makes `batch`."""

    batch: ClientBatch

    def __init__(self, driver: BlockingDriver, options: ManyOptions) -> None:
        super().__init__()
        self._driver = driver
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            steps = batches.submit_workflow(self._driver.limits, self, self._options)
            self.batch = ClientBatch(self._driver, self._driver.run(steps))


class Client:
    """The service at `url` (or ACCEPTED_URL) for the holder of `api_key` (or ACCEPTED_API_KEY).

    What fails in passing (the connection, 429, 502, 503, 504) is tried again with backoff, not before `Retry-After`: up
    to `max_tries` times, the last try within `max_seconds`. A submission keeps its idempotency key meanwhile, so it
    makes one job. `timeout` is in seconds, for one try. Threads may share a client. Errors: `accepted.client.errors`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        max_tries: int = 10,
        max_seconds: float = 60.0,
    ) -> None:
        self._driver = BlockingDriver(Connection.to(url, api_key, timeout, max_tries, max_seconds))

    @overload
    def submit(self, type: str, payload: Any = None, **options: Unpack[SubmitOptions]) -> ClientJob: ...

    @overload
    def submit(
        self, type: Callable[[Payload, Any], Any], payload: Payload, **options: Unpack[SubmitOptions]
    ) -> ClientJob: ...

    def submit(self, type: JobKind, payload: Any = None, **options: Unpack[SubmitOptions]) -> ClientJob:
        """Submit a job: `type` names its type, or is the handler's function. When this returns, it is accepted.

        `payload` is a dict, or what becomes one: a Pydantic model, a dataclass. Options are the fields of POST /jobs
        and `idempotency_key`. Raises `ValidationFailed` and other `RequestProblem`s, and `ServiceUnreachable`.
        """
        return self._job(self._driver.run(jobs.submit(self._driver.limits, type, payload, options)))

    def get(self, job_id: str) -> ClientJob:
        """A job as it is now. Raises `NotThere`, and `NoLongerThere` for one past its retention."""
        return self._job(self._driver.run(jobs.get(self._driver.limits, job_id)))

    def jobs(self, **filters: Unpack[SearchFilters]) -> Iterator[ClientJob]:
        """All jobs that match, newest first, fetched page by page. They have `payload` and `result` if `include` says
        so."""
        return map(self._job, self._driver.each(jobs.search(self._driver.limits, filters)))

    def cancel(self, job_id: str) -> ClientJob:
        """Cancel a job: at once if it waits; a running one ends soon. Raises `ConflictingState` if it has finished."""
        return self._job(self._driver.run(jobs.cancel(self._driver.limits, job_id)))

    def retry(self, job_id: str) -> ClientJob:
        """Run a failed, cancelled or expired job again. Raises `ConflictingState` for any other."""
        return self._job(self._driver.run(jobs.retry(self._driver.limits, job_id)))

    def batch(self, members: Iterable[Mapping[str, Any]], **options: Unpack[ManyOptions]) -> ClientBatch:
        """Submit up to 1,000,000 jobs, all or none, each a dict as the body of POST /jobs. `type` may be the handler's
        function, `payload` a model. With more than 10,000 jobs a pointer of an error has the number of the line.
        """
        steps = batches.submit(self._driver.limits, members, options)
        return ClientBatch(self._driver, self._driver.run(steps))

    def get_batch(self, batch_id: str) -> ClientBatch:
        """A batch or workflow as it is now. Raises `NotThere` and `NoLongerThere`."""
        return ClientBatch(self._driver, self._driver.run(batches.get(self._driver.limits, batch_id)))

    def workflow(self, **options: Unpack[ManyOptions]) -> ClientWorkflow:
        """Jobs that depend on each other, all or none: `with client.workflow() as flow: a = flow.add(…);
        flow.add(…, after=[a])`. After the block `flow.batch` is the workflow."""
        return ClientWorkflow(self._driver, options)

    def webhook_secrets(self) -> list[str]:
        """The secrets that sign the tenant's webhooks, the newest first, for `accepted.webhooks.verify`.

        Needs the scope `webhooks:read`.
        """
        return self._driver.run(jobs.webhook_secrets(self._driver.limits))

    def close(self) -> None:
        """Close its connections."""
        self._driver.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _job(self, document: dict[str, Any]) -> ClientJob:
        return ClientJob(self._driver, document)
