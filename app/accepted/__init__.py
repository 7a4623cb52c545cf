"""Accepted, an HTTP job service. Programs and handler modules import only the names here.

Each name is imported when it is first used, so that `import accepted` loads nothing else.
"""

from importlib import import_module

TYPE_CHECKING = False  # not from `typing`: its import would be most of the cost
if TYPE_CHECKING:
    from accepted.context import Context
    from accepted.domain.failures import AuthError, InvalidJob, LeaseLost, NotFound, RateLimited, TransientError
    from accepted.domain.retry import Retry
    from accepted.handler import job

__version__ = "0.1.0"

__all__ = [
    "AuthError",
    "Context",
    "InvalidJob",
    "LeaseLost",
    "NotFound",
    "RateLimited",
    "Retry",
    "TransientError",
    "__version__",
    "job",
    "testing",
]

_MODULES = {
    "AuthError": "accepted.domain.failures",
    "Context": "accepted.context",
    "InvalidJob": "accepted.domain.failures",
    "LeaseLost": "accepted.domain.failures",
    "NotFound": "accepted.domain.failures",
    "RateLimited": "accepted.domain.failures",
    "Retry": "accepted.domain.retry",
    "TransientError": "accepted.domain.failures",
    "job": "accepted.handler",
}


def __getattr__(name: str) -> object:
    if name == "testing":
        return import_module("accepted.testing")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
