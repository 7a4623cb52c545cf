"""`Client` and `AsyncClient` against the service. Contract, section 5; issue 16."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

import accepted
from accepted import Context, JobFailed
from accepted.client.errors import ConflictingState, NotThere, ValidationFailed, WaitTimeout
from tests.support.clients.either import EitherClient, either
from tests.support.servers.ports import free_port
from tests.support.servers.receiver import HANG_UP, Answer, Receiver, Request
from tests.support.service.processes import StartService, answers
from tests.support.service.running_service import BOOT_WITHIN, Running
from tests.support.waiting import until

LATER = 3600.0
MANY = 400


class Nap(BaseModel):
    seconds: float


@accepted.job("sleep")
async def nap(payload: Nap, ctx: Context) -> None: ...


class LosingLink:
    """Passes requests on to the service at `url`, and loses its answer to the first POST after `before` has been done.

    As a proxy that compresses, it makes ETags weak.
    """

    def __init__(self, url: str, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.answers: list[httpx.Response] = []
        self._url = url
        self._before = before

    async def __call__(self, request: Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.request(request.method, self._url + request.path, content=request.body, headers=headers)
        if request.method == "POST":
            self.answers.append(answer)
            if len(self.answers) == 1:
                if self._before is not None:
                    await self._before()
                return HANG_UP
        weak = {"etag": f"W/{answer.headers['etag']}"} if "etag" in answer.headers else {}
        return Answer(answer.status_code, answer.content, {"content-type": answer.headers["content-type"], **weak})


async def test_a_job_is_submitted_and_waited_for(it: EitherClient, queue: str) -> None:
    job = await it(lambda c: c.submit("noop", {"n": 7}, queue=queue, tags=["a"], metadata={"k": "v"}, priority=7))
    assert (job.type, job.queue, job.priority, job.payload, job.metadata) == ("noop", queue, 7, {"n": 7}, {"k": "v"})
    assert await it(lambda _: job.wait(timeout=30)) is job
    assert (job.status, job.result, job.finished) == ("succeeded", {}, True)
    assert job.finished_at >= job.created_at
    assert (await it(lambda c: c.get(job.id))).document == job.document

    napped = await it(lambda c: c.submit(nap, Nap(seconds=0.1), idempotency_key=f"{queue}-nap"))
    again = await it(lambda c: c.submit("sleep", {"seconds": 0.1}, idempotency_key=f"{queue}-nap"))
    assert napped.id == again.id
    assert (await it(lambda _: again.wait(30))).result == {"slept": 0.1}
    assert (await it(lambda _: napped.refresh())).status == "succeeded"


async def test_a_job_that_fails_is_an_error_with_its_reason(it: EitherClient) -> None:
    async with Receiver(lambda _: Answer(404)) as missing:
        job = await it(lambda c: c.submit("http.request", {"url": missing.url}))
        with pytest.raises(
            JobFailed, match=rf"job {job.id} \(http.request\) failed, not_found at attempt 1: "
        ) as failed:
            await it(lambda _: job.wait(timeout=30))
        assert (failed.value.job, failed.value.failure_class, failed.value.attempt) == (job, "not_found", 1)
        assert failed.value.message == job.error["message"]
        missing.respond = lambda _: Answer(200)
        await it(lambda _: job.retry())
        assert (await it(lambda _: job.wait(timeout=30))).result["status_code"] == 200


async def test_a_wait_has_an_end(it: EitherClient) -> None:
    job = await it(lambda c: c.submit("noop", delay=LATER))
    with pytest.raises(WaitTimeout, match=f"{job.id} has not finished within 1.2 s") as late:
        await it(lambda _: job.wait(timeout=1.2))
    assert isinstance(late.value, TimeoutError)
    assert late.value.waited_for is job
    assert (await it(lambda c: c.cancel(job.id))).status == "cancelled"
    with pytest.raises(JobFailed, match="cancelled"):
        await it(lambda _: job.wait())
    with pytest.raises(ConflictingState):
        await it(lambda _: job.cancel())
    with pytest.raises(NotThere):
        await it(lambda c: c.get("0198f1c2-7d5e-7cc3-98c4-dc0c0c07398f-no"))


async def test_what_is_wrong_is_named_by_pointers(it: EitherClient) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await it(lambda c: c.submit("noop", delya=1, priority=12))
    found = {one.pointer: one.detail for one in refused.value.errors}
    assert found.keys() == {"/delya", "/priority"}
    assert 'did you mean "delay"' in found["/delya"]
    with pytest.raises(ValidationFailed, match="noop"):
        await it(lambda c: c.submit("nop"))


async def test_lists_go_over_pages(it: EitherClient, queue: str) -> None:
    members = [{"type": "noop", "queue": queue, "delay": LATER, "payload": {"n": n}} for n in range(203)]
    await it(lambda c: c.batch(members))
    jobs = await it.all(lambda c: c.jobs(queue=queue, status=["scheduled", "queued"]))
    assert len({job.id for job in jobs}) == 203
    with pytest.raises(AttributeError, match="include='payload'"):
        _ = jobs[0].payload
    large = await it.all(lambda c: c.jobs(queue=queue, include=["payload"]))
    assert [job.payload["n"] for job in large] == [*range(203)][::-1]
    assert await it.all(lambda c: c.jobs(queue=queue, status="failed")) == []


async def test_events_tell_of_a_life(it: EitherClient) -> None:
    job = await it(lambda c: c.submit("sleep", {"seconds": 0.2}))
    found = await it.all(lambda _: job.events())
    assert [event.status for event in found][-2:] == ["running", "succeeded"]
    assert (found[-1].attempt, found[-1].at is not None) == (1, True)
    assert [event.status for event in await it.all(lambda _: job.events())] == ["queued", "running", "succeeded"]


async def test_a_lost_answer_makes_no_second_job(
    it: EitherClient, trio: Running, keys: Mapping[str, str], queue: str
) -> None:
    """The service commits the job, and the connection breaks before the 202 arrives."""
    losing = LosingLink(trio.url)
    async with Receiver(losing) as link, either(True, link.url, keys["hooks"]) as behind:
        job = await behind(lambda c: c.submit("noop", queue=queue))
    assert [answer.status_code for answer in losing.answers] == [202, 202]
    assert {answer.json()["id"] for answer in losing.answers} == {job.id}
    assert [one.id for one in await it.all(lambda c: c.jobs(queue=queue))] == [job.id]


async def test_a_lost_answer_retries_and_cancels_once(
    it: EitherClient, trio: Running, keys: Mapping[str, str], queue: str
) -> None:
    """The retried job has failed again by the time when its answer is lost. It does not run a third time."""

    async def failed_again() -> None:
        await until(lambda: has_failed(2), BOOT_WITHIN, "the second failure")

    async def has_failed(attempt: int) -> bool:
        now = await it(lambda c: c.get(job.id))
        return (now.status, now.attempt) == ("failed", attempt)

    fails: Any = {"payload": {"seconds": 0, "fail_attempts": 9}, "retry": {"max_attempts": 1}}
    job = await it(lambda c: c.submit("sleep", queue=queue, **fails))
    await until(lambda: has_failed(1), BOOT_WITHIN, "the first failure")
    retrying = LosingLink(trio.url, failed_again)
    async with Receiver(retrying) as link, either(True, link.url, keys["hooks"]) as behind:
        again = await behind(lambda c: c.retry(job.id))
    assert [answer.status_code for answer in retrying.answers] == [202, 412]
    assert (again.status, again.attempt) == ("failed", 2)
    assert await has_failed(2)

    waiting = await it(lambda c: c.submit("noop", delay=LATER))
    cancelling = LosingLink(trio.url)
    async with Receiver(cancelling) as link, either(True, link.url, keys["hooks"]) as behind:
        assert (await behind(lambda c: c.cancel(waiting.id))).status == "cancelled"
    assert [answer.status_code for answer in cancelling.answers] == [202, 409]


async def test_a_killed_api_loses_no_submission_and_doubles_none(
    trio: Running, keys: Mapping[str, str], queue: str, start_service: StartService
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    api = start_service("api", "--port", str(port), env=trio.env)
    await api.wait_ready(answers(f"{url}/readyz"), BOOT_WITHIN)
    done: list[str] = []
    turns = asyncio.Semaphore(10)
    async with accepted.AsyncClient(url, keys["hooks"]) as submitting:

        async def submit(number: int) -> None:
            async with turns:
                done.append((await submitting.submit("noop", {"n": number}, queue=queue, delay=LATER)).id)

        tasks = [asyncio.create_task(submit(number)) for number in range(MANY)]
        await until(lambda: len(done) >= MANY / 10, BOOT_WITHIN, "the first submissions")
        api.kill()
        assert len(done) < MANY
        api.start()
        await asyncio.gather(*tasks)
        found = [job async for job in submitting.jobs(queue=queue, include="payload")]
    assert sorted(job.payload["n"] for job in found) == [*range(MANY)]
    assert {job.id for job in found} == set(done)


async def test_url_and_key_come_from_the_environment(
    trio: Running, keys: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCEPTED_URL", f"{trio.url}/")
    monkeypatch.setenv("ACCEPTED_API_KEY", f"{keys['reader']}\n")

    def first_of(client: accepted.Client) -> list[Any]:
        with client:
            return [job for job, _ in zip(client.jobs(), range(1), strict=False)]

    assert len(await asyncio.to_thread(lambda: first_of(accepted.Client()))) <= 1
