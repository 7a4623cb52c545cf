"""Where settings come from. Apart from `accepted.settings`, which takes longer to load than a page of help to print."""

import os

PREFIX = "ACCEPTED_"
DOT_ENV = ".env"

OF_CLIENTS = ("url", "api_key")
"""What the commands that call the HTTP API read."""


def names_in_file() -> list[str]:
    """The names that `.env` in the working directory gives a value to."""
    if not os.path.exists(DOT_ENV):
        return []
    from dotenv import dotenv_values

    return list(dotenv_values(DOT_ENV, interpolate=False))
