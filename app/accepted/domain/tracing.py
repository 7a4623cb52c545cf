"""W3C Trace Context: which `traceparent` we carry on with a job."""

import re

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(value: str) -> bool:
    """Whether `value` is a traceparent of version 00's form with ids that are not all zero."""
    return _TRACEPARENT.fullmatch(value) is not None
