"""Accepted, an HTTP job service. Programs and handler modules import only the names here.

Each name is imported when it is first used, so that `import accepted` loads nothing else.
"""

from importlib import import_module

TYPE_CHECKING = False  # not from `typing`: its import would be most of the cost
if TYPE_CHECKING:
    from accepted import webhooks as webhooks
    from accepted.client.asynchronous import AsyncClient
    from accepted.client.blocking import Client
    from accepted.client.errors import JobFailed
    from accepted.context import Context
    from accepted.domain.failures import AuthError, InvalidJob, LeaseLost, NotFound, RateLimited, TransientError
    from accepted.domain.retry import Retry
    from accepted.handler import job

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AuthError",
    "Client",
    "Context",
    "InvalidJob",
    "JobFailed",
    "LeaseLost",
    "NotFound",
    "RateLimited",
    "Retry",
    "TransientError",
    "__version__",
    "job",
    "testing",
    "webhooks",
]

_MODULES = {
    "AsyncClient": "accepted.client.asynchronous",
    "AuthError": "accepted.domain.failures",
    "Client": "accepted.client.blocking",
    "Context": "accepted.context",
    "InvalidJob": "accepted.domain.failures",
    "JobFailed": "accepted.client.errors",
    "LeaseLost": "accepted.domain.failures",
    "NotFound": "accepted.domain.failures",
    "RateLimited": "accepted.domain.failures",
    "Retry": "accepted.domain.retry",
    "TransientError": "accepted.domain.failures",
    "job": "accepted.handler",
}


_SUBMODULES = ("testing", "webhooks")
"""Modules that programs reach as `accepted.webhooks` without importing them."""


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
