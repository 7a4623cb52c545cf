"""Where in a handler an exception came from, as text for `GET /jobs/{id}/attempts`.

Source lines and messages only, no values of variables; from the handler's first frame on, without the worker's own.
"""

import traceback
from pathlib import Path
from types import TracebackType

from accepted_worker.process_pool.pool import RaisedInChild

MAX_BYTES = 16 * 1024
"""Of a traceback, from its end: the last frames and the message say most."""

MAX_FRAMES = 60
"""Innermost frames. A recursion of a thousand would take longer to write down than the handler ran."""

_PACKAGE = Path(__file__).parents[1]
_OURS = {
    str(_PACKAGE / path)
    for path in (
        "attempt/values.py",
        "process_pool/child.py",
        "process_pool/pool.py",
        "runtime/executor.py",
        "attempt/handler_call.py",
        "attempt/threads.py",
    )
}


def of(error: BaseException) -> str | None:
    """The traceback of what a handler raised; None for what we raised, and for what cannot be written down."""
    if isinstance(error, RaisedInChild):
        return error.traceback
    frames = _from_the_handler_on(error.__traceback__)
    if frames is None:
        return None
    try:
        lines = traceback.format_exception(type(error), error, frames, limit=-MAX_FRAMES)
    except BaseException:  # an exception of a handler's own making can be anything
        return None
    text = "".join(lines).encode(errors="replace").replace(b"\0", b"?")
    cut = text if len(text) <= MAX_BYTES else b"...\n" + text[4 - MAX_BYTES :]
    return cut.decode(errors="ignore")


def _from_the_handler_on(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename in _OURS:
        frames = frames.tb_next
    return frames
