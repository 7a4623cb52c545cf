"""Which spans the sampler drops, decided before anything of a span is made.

At 1 % the SDK would make unsampled spans for 99 of 100 jobs, in the API and in the worker, for a tenth of the CPU time
of the job. What it decides can be known before: the parent-based samplers drop what a caller does not sample, and of
roots they take a part by the trace id. Other samplers decide by themselves.
"""

import random
import re

RATIO = re.compile(r"ParentBased\{root:TraceIdRatioBased\{([0-9.e-]+)\}")
FOLLOWS_PARENT = "ParentBased{"
"""How a sampler describes itself (Trace SDK specification, GetDescription)."""

RANGE = 2**64
"""The ratio is that of the low 64 bits of the trace id."""


class HeadSampling:
    """What a sampler of this description drops."""

    def __init__(self, description: str) -> None:
        ratio = RATIO.match(description)
        self._follows_parent = description.startswith(FOLLOWS_PARENT)
        self._bound = RANGE if ratio is None else round(float(ratio[1]) * RANGE)
        self.chosen: int | None = None
        """The trace id of the next root: the sampler takes it."""

    def dropped(self, parent: str | None) -> str | None:
        """The traceparent to send on in place of a span that is not made; None: make the span, and ask the sampler."""
        if parent is not None:
            return parent if self._follows_parent and not int(parent[-1], 16) & 1 else None
        if self._bound == RANGE:
            return None
        trace_id = random.getrandbits(128)
        if trace_id % RANGE < self._bound:
            self.chosen = trace_id
            return None
        return f"00-{trace_id:032x}-{random.getrandbits(64):016x}-00"
