"""What `accepted dev` prints once it is ready: where it is, what it serves, and how to submit a job."""

import shlex
from collections.abc import Sequence

import accepted

ANY = "noop"
"""The type of the example, where it is served."""


def greeting(url: str, types: Sequence[str], ledger: str) -> str:
    """The text for a terminal. `ledger` says where the data are."""
    lines = {
        "API": url,
        "Dashboard": f"{url}/",
        "Reference": f"{url}/docs",
        "Ledger": ledger,
        "Types": ", ".join(types) or "none: name your modules in ACCEPTED_HANDLERS",
    }
    shown = "".join(f"  {name:<10} {value}\n" for name, value in lines.items())
    submit = f"Submit a job, and stop with Ctrl-C:\n\n  {_submit(url, types)}\n"
    return f"\nAccepted {accepted.__version__} is ready.\n\n{shown}\n{submit}\n"


def _submit(url: str, types: Sequence[str]) -> str:
    name = ANY if ANY in types else next(iter(types), ANY)
    body = shlex.quote(f'{{"type": "{name}", "payload": {{}}}}')
    return f"curl {url}/jobs -H 'Content-Type: application/json' -d {body}"
