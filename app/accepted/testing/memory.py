"""The records of one attempt in memory, for `accepted.testing.run`."""

from collections.abc import Iterable, Mapping, Sequence

from accepted.domain.failures import InvalidJob
from accepted.domain.job import DEFAULT_QUEUE, Job, JobType
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.references import Lease
from accepted.domain.retry import Retry
from accepted.domain.transitions import Transition
from accepted.payload_types import URL_FORMAT, checkers
from accepted.services.job_types.compiled import CompiledJobType, compile_type, url_format
from accepted.storage.attempts.handler_transactions import HandlerTransaction
from accepted.storage.attempts.logs import Piece
from accepted_worker.outbound.targets import Call, Deferred

NO_LEDGER = "ctx.transaction() needs the ledger: test this handler with accepted.testing.WorkerHarness"

ANY_OBJECT = '{"type":"object"}'


class MemoryRecords:
    """`accepted_worker.attempt.records.AttemptRecords` of one attempt, whose lease is never lost.

    `steps` and `results` are JSON texts; a step of the attempt is added to `steps`.
    """

    def __init__(self, types: "TypesAtHand", steps: dict[str, str], results: dict[str, str]) -> None:
        self.types = types
        self.targets = EveryTarget()
        self.steps = steps
        self.lines: list[bytes] = []
        self._results = results

    async def recall_steps(self, lease: Lease) -> dict[str, str]:
        return dict(self.steps)

    async def remember_step(self, lease: Lease, name: str, result: str) -> bool:
        self.steps[name] = result
        return True

    async def results_needed(self, lease: Lease) -> dict[str, str]:
        return self._results

    async def write_progress(self, progress: Mapping[Lease, str]) -> None:
        """The last progress of the attempt comes with its outcome."""

    async def append_logs(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.lines += piece.lines
            del self.lines[: len(self.lines) - (piece.last - piece.first + 1)]

    async def begin(self, lease: Lease, seconds: float) -> HandlerTransaction:
        raise InvalidJob(NO_LEDGER)

    async def aclose(self) -> None:
        """Nothing is open."""


class EveryTarget:
    """`AttemptTargets`: every host may be called."""

    async def ask(self, job: Job, /) -> None:
        return None

    def tell(self, call: Call | Deferred, transition: Transition, /) -> None:
        """Nobody else calls it."""


class TypesAtHand:
    """`KnownTypes`: those given, and any other name as a type that takes any payload.

    The types of a service are known to its ledger only.
    """

    def __init__(self, types: Iterable[JobType], allow: EgressAllow) -> None:
        self._types = {one.name: one for one in types}
        self._formats = {**checkers(), URL_FORMAT: url_format(allow)}

    async def get(self, tenant: str, name: str, /) -> CompiledJobType:
        return compile_type(self._types.get(name) or _anything(name), self._formats)


def _anything(name: str) -> JobType:
    return JobType(
        name=name, description="", queue=DEFAULT_QUEUE, retry=Retry(), timeout=None, payload_schema=ANY_OBJECT
    )
