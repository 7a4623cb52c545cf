"""For tests of programs that use Accepted. docs/testing.md shows each name at work.

Each name is imported when it is first used, so that the plugin of pytest costs nothing where no test uses it.
"""

from importlib import import_module

from accepted import extras

TYPE_CHECKING = False
if TYPE_CHECKING:
    from accepted.testing.attempts import run
    from accepted.testing.harness import WorkerHarness
    from accepted.testing.outcome import HandlerOutcome, LogLine, SubmittedChild
    from accepted.testing.webhooks import SignedWebhook, signed_webhook

__all__ = ["HandlerOutcome", "LogLine", "SignedWebhook", "SubmittedChild", "WorkerHarness", "run", "signed_webhook"]

_MODULES = {
    "HandlerOutcome": "accepted.testing.outcome",
    "LogLine": "accepted.testing.outcome",
    "SignedWebhook": "accepted.testing.webhooks",
    "SubmittedChild": "accepted.testing.outcome",
    "WorkerHarness": "accepted.testing.harness",
    "run": "accepted.testing.attempts",
    "signed_webhook": "accepted.testing.webhooks",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(extras.advice(error) or str(error)) from error
    return value
