"""How far an attempt says it is: the `progress` of contract section 3."""

import msgspec

from accepted.domain.texts import storable

MAX_MESSAGE = 500
"""Characters of a message that are kept."""


def progress(percent: float, message: str = "") -> str:
    """As JSON text. Raises `ValueError` for anything but a number from 0 to 100."""
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise ValueError("percent must be a number from 0 to 100")
    return msgspec.json.encode({"percent": percent, "message": storable(str(message), MAX_MESSAGE)}).decode()
