"""The filters of GET /jobs as options, the same for every command about many jobs."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from accepted.cli.http import RequestFailed

_OPTIONS: dict[str, Any] = {
    "status": Annotated[str | None, typer.Option(help="Only of these statuses, with commas between them.")],
    "queue": Annotated[str | None, typer.Option(help="Only of this queue.")],
    "type": Annotated[str | None, typer.Option("--type", help="Only of this type.")],
    "tag": Annotated[str | None, typer.Option(help="Only with this tag.")],
    "batch_id": Annotated[str | None, typer.Option(metavar="ID", help="Only of this batch or workflow.")],
    "parent_id": Annotated[str | None, typer.Option(metavar="ID", help="Only children of this job.")],
    "root_id": Annotated[str | None, typer.Option(metavar="ID", help="Only this job and what has grown from it.")],
    "error_class": Annotated[str | None, typer.Option(metavar="CLASS", help="Only with a last error of this class.")],
    "error_text": Annotated[str | None, typer.Option(metavar="TEXT", help="Only failed with such a message.")],
    "metadata": Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this pair; repeatable.")],
    "created_after": Annotated[str | None, typer.Option(metavar="TIME", help="Only accepted after it (RFC 3339).")],
    "created_before": Annotated[str | None, typer.Option(metavar="TIME", help="Only accepted before it.")],
    "finished_after": Annotated[str | None, typer.Option(metavar="TIME", help="Only finished after it.")],
    "finished_before": Annotated[str | None, typer.Option(metavar="TIME", help="Only finished before it.")],
}


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with an option for each filter. It gets those that are given as one argument: `filters`."""
    own = inspect.signature(command)
    kept = [parameter for name, parameter in own.parameters.items() if name != "filters"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]

    @wraps(command)
    def run(**values: Any) -> None:
        filters = {name: value for name in _OPTIONS if (value := values.pop(name)) is not None}
        if "metadata" in filters:
            filters["metadata"] = _pairs(filters["metadata"])
        command(filters=filters, **values)

    run.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {name: kind for name, kind in command.__annotations__.items() if name != "filters"} | _OPTIONS
    return run


def as_query(filters: dict[str, Any]) -> dict[str, Any]:
    """The filters as query parameters."""
    pairs = filters.get("metadata", {})
    return {name: value for name, value in filters.items() if name != "metadata"} | {
        f"metadata[{key}]": value for key, value in pairs.items()
    }


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = dict(pair.partition("=")[::2] for pair in given)
    if not all("=" in pair for pair in given) or len(pairs) < len(given):
        raise RequestFailed("--metadata: give each key once, as KEY=VALUE")
    return pairs
