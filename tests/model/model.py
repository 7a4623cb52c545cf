"""What a job must be after each thing that can happen to it, said once more and without SQL.

Written from contract sections 3 to 5 and decision 9. A budget is counted here as failures against what the policy
allows, not by what is left of `max_attempts`: the two have to agree. Times are in units of our clock.
"""

from dataclasses import dataclass, field
from uuid import UUID

from tests.model.contract import AGAIN, WAITING
from tests.model.rows import Attempt, Row, Waiting

MOST_CRASHES = 3
AT_ONCE = {"invalid", "auth", "not_found"}


@dataclass
class Lease:
    """The open attempt."""

    worker: UUID
    cancel: bool = False


@dataclass
class Place:
    """In the outbox. `turn` says who was published before whom; it is shared by those that were so together."""

    due: float
    published: bool
    turn: int = 0


@dataclass(kw_only=True)
class Job:
    """One job. `most` and `waits` are its retry policy; `failures` are those of the present budget."""

    id: UUID
    queue: str
    priority: int
    most: int
    waits: tuple[float, ...]
    payload: str
    tells: bool
    run_at: float
    expires: float | None
    status: str
    place: Place | None
    max_attempts: int
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    lease: Lease | None = None
    error: tuple[str, int] | None = None
    result: str | None = None
    letter: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    retried_after: list[int] = field(default_factory=list)
    edits: list[tuple[int, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def waits_now(self) -> bool:
        return self.status in WAITING

    def late(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now

    def publish(self, now: float, turn: int) -> None:
        """The relay, or whoever accepted it, put it on the harness."""
        self.place, self.status = Place(now, True, turn), "queued"

    def claim(self, worker: UUID) -> None:
        self.status, self.place, self.lease = "running", None, Lease(worker)
        self.attempt += 1

    def cancel(self) -> None:
        """Somebody asked: at once while it waits, else a note for whoever ends the attempt."""
        if self.lease is not None:
            self.lease.cancel = True
        else:
            self._end("cancelled", ("cancelled", self.attempt))

    def expire(self) -> None:
        self._end("expired", ("expired", self.attempt))

    def succeed(self, result: str) -> None:
        self._close("succeeded", None)
        self.result = result
        self._end("succeeded", None)

    def fail(self, kind: str, now: float, retry_after: float = 0.0, at_once: bool | None = None) -> None:
        """`at_once` overrules what the class says, for a type that has its own idea of what was not found."""
        cancel = self._close(kind, kind)
        self.failures += 1
        if self.failures >= self.most or (kind in AT_ONCE if at_once is None else at_once):
            self._die(kind)
        elif cancel:
            self._end("cancelled", ("cancelled", self.attempt))
        else:
            self._retry(kind, now, max(self._wait(), retry_after))

    def crash(self, now: float) -> None:
        cancel = self._close("crashed", "crashed")
        self.failures += 1
        self.crashes += 1
        if self.crashes >= MOST_CRASHES or self.failures >= self.most:
            self._die("crashed")
        elif cancel:
            self._end("cancelled", ("cancelled", self.attempt))
        elif self.crashes == 1:
            self.status, self.place, self.error = "queued", Place(now, False), ("crashed", self.attempt)
        else:
            self._retry("crashed", now, self._wait())

    def hand_back(self, now: float) -> None:
        """Its worker stops: the attempt is not charged."""
        cancel = self._close("handed_back", None)
        self.max_attempts += 1
        if cancel:
            self._end("cancelled", ("cancelled", self.attempt))
        else:
            self.status, self.place, self.error = "queued", Place(now, False), None

    def let_go(self) -> None:
        """Its handler ended because somebody had asked."""
        self._close("cancelled", "cancelled")
        self._end("cancelled", ("cancelled", self.attempt))

    def again(self, due: float, now: float) -> None:
        """A manual retry or a replay: a fresh budget, and a deadline that lies before the run falls away."""
        assert self.status in AGAIN
        self.status, self.place, self.run_at = "scheduled" if due > now else "queued", Place(due, False), due
        self.failures = self.crashes = 0
        self.max_attempts = self.attempt + self.most
        self.error = self.letter = None
        self.retried_after.append(self.attempt)
        if self.late(due):
            self.expires = None

    def edit(self, payload: str) -> None:
        self.edits.append((self.attempt, self.payload))
        self.payload = payload

    def row(self, now: float) -> Row:
        """What the ledger must show of it."""
        open_one = [] if self.lease is None else [
            Attempt(self.attempt, self.lease.worker, True, self.lease.cancel, None, None)
        ]  # fmt: skip
        expires = None if self.expires is None else self.expires - now
        return Row(
            status=self.status, attempt=self.attempt, max_attempts=self.max_attempts, crashes=self.crashes,
            error=self.error, result=self.result, payload=self.payload, run_at=self.run_at - now, expires=expires,
            finished=not self.waits_now and self.lease is None, retried_after=tuple(self.retried_after),
            outbox=() if self.place is None else (Waiting(
                self.attempt, self.queue, self.priority, self.place.due - now, self.place.published, expires
            ),),
            attempts=(*self.attempts, *open_one), letters=() if self.letter is None else (self.letter,),
            edits=tuple(self.edits), told=tuple(sorted(self.told)),
        )  # fmt: skip

    def _close(self, outcome: str, error: str | None) -> bool:
        """The lease ends. Whether somebody wanted the job cancelled."""
        assert self.lease is not None
        lease, self.lease = self.lease, None
        self.attempts.append(Attempt(self.attempt, lease.worker, False, lease.cancel, outcome, error))
        return lease.cancel

    def _wait(self) -> float:
        return self.waits[min(self.failures, len(self.waits)) - 1]

    def _retry(self, kind: str, now: float, wait: float) -> None:
        self.status, self.place, self.error = "retrying", Place(now + wait, False), (kind, self.attempt)
        if wait > 0:
            self.run_at = now + wait

    def _die(self, kind: str) -> None:
        self._end("failed", (kind, self.attempt))
        self.letter = kind

    def _end(self, status: str, error: tuple[str, int] | None) -> None:
        self.status, self.error, self.place = status, error, None
        if self.tells:
            self.told.append(f"job.{status}")
