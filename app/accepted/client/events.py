"""The events of a job, as steps: a stream that is opened again where it broke off."""

import json
from typing import Any

from accepted.client.errors import ServiceUnreachable
from accepted.client.exchange import Limits, backoff, exchange, problem_of
from accepted.client.fields import event_of
from accepted.client.jobs import path_of
from accepted.client.steps import ApiAnswer, ApiRequest, Found, NextLine, NoAnswer, Pause, Steps
from accepted.domain.job import FINISHED

SILENCE = 30.0
"""Seconds, beyond the timeout, that a stream may be silent. The service sends a comment every 15 s."""


class _Frames:
    """Lines of Server-Sent Events (the HTML standard, section 9.2.6) as events. `last_id` is that of the last one."""

    def __init__(self) -> None:
        self.last_id = ""
        self._fields: dict[str, str] = {}

    def take(self, line: str) -> tuple[str, dict[str, Any]] | None:
        """The kind and data of the event that this line ends."""
        name, _, value = line.partition(":")
        if line:
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        self.last_id = fields.get("id", self.last_id)
        return (fields.get("event", ""), json.loads(fields["data"])) if "data" in fields else None

    def begin_again(self) -> None:
        """Forget an event that was cut off."""
        self._fields = {}


def events(limits: Limits, job_id: str) -> Steps[None]:
    """Finds each event until the job has finished. A stream that ends before is opened again, `limits.tries` times
    without an event between."""
    frames, ended, failures, progress = _Frames(), False, 0, None
    while not ended:
        headers = {"Last-Event-ID": frames.last_id} if frames.last_id else {}
        request = ApiRequest("GET", f"{path_of(job_id)}/events", headers=headers, patience=SILENCE, stream=True)
        answer = yield from exchange(request, limits)
        if answer.status == 204:
            return
        frames.begin_again()
        failures += 1
        line = yield NextLine(answer.lines)
        while isinstance(line, str):
            found = frames.take(line)
            if found is not None:
                event = event_of(*_unless_problem(found, answer))
                failures = 0
                ended = event.status in FINISHED
                if event.type != "progress" or event != progress:  # a new stream begins with the latest one
                    yield Found(event)
                progress = event if event.type == "progress" else progress
            line = yield NextLine(answer.lines)
        if failures >= limits.tries:
            raise ServiceUnreachable(_reason(line), failures, None)
        if not ended:
            yield Pause(backoff(failures + 1))


def _unless_problem(found: tuple[str, dict[str, Any]], answer: ApiAnswer) -> tuple[str, dict[str, Any]]:
    kind, data = found
    if kind != "problem":
        return found
    headers = {"content-type": "application/problem+json"}
    raise problem_of(ApiAnswer(int(data["status"]), "", answer.url, headers, json.dumps(data).encode()))


def _reason(line: NoAnswer | None) -> str:
    return line.reason if line else "the stream of events ends before the job"
