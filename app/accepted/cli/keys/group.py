"""`accepted keys`: create, list and revoke API keys, in the ledger or over HTTP; the other commands are added here.

In the ledger they are those of every tenant, for whoever may write there. Over HTTP they are those of the caller's own
tenant (docs/decisions/0035).
"""

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from accepted.cli.client_commands import calls_the_api, client_options, client_setting
from accepted.cli.http import AsJson, ask, ask_all, say_json, shown
from accepted.cli.keys import shares
from accepted.cli.keys.ledger import with_ledger
from accepted.domain.json_text import is_printable
from accepted.domain.network import signing
from accepted.domain.tenants import RESERVED, SCOPES
from accepted.errors import ConfigurationError, ResourceNotFound

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from accepted.storage.tenants import ApiKey

keys = typer.Typer(
    no_args_is_help=True,
    help="Create, list and revoke API keys: in the ledger, or with --url over HTTP. "
    "Set the quota and the share of a tenant.",
)
keys.command()(shares.quota)
keys.command()(shares.share)


@keys.command("create")
@calls_the_api
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    tenant: Annotated[str | None, typer.Option(help="The tenant whose jobs the key sees; over HTTP: yours.")] = None,
    scopes: Annotated[str, typer.Option(help="Comma-separated: " + ", ".join(SCOPES))] = "jobs:read,jobs:write",
    as_json: AsJson = False,
) -> None:
    """Create a key. It is printed once and cannot be shown again.

    `admin` includes webhooks:read, webhooks:write and queues:admin; `operator` is for what tenants share.
    """
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    if not _over_http():
        made = _create_in_ledger(tenant, name, wanted)
    elif tenant is None:
        made = ask("POST", "/keys", json={"name": name, "scopes": wanted})
    else:
        raise ConfigurationError("--tenant: over HTTP a key is of the tenant of the key that makes it")
    if as_json:
        say_json(made)
        return
    typer.echo(f"id: {made['id']}", err=True)
    typer.echo(made["key"])


@keys.command("list")
@calls_the_api
def list_keys(as_json: AsJson = False) -> None:
    """List keys, without their secrets: all, or over HTTP those of your tenant."""
    found = list(ask_all("/keys")) if _over_http() else [_as_json(key) for key in _keys_in_ledger()]
    if as_json:
        say_json({"items": found})
    elif found:
        _print(found)
    else:
        typer.echo("no keys", err=True)


@keys.command("revoke")
@calls_the_api
def revoke_key(key_id: UUID, as_json: AsJson = False) -> None:
    """Revoke a key. API processes stop accepting it within half a second."""
    from accepted.services.keys import revoke

    if _over_http():
        ask("POST", f"/keys/{key_id}/revoke")
    elif not with_ledger(lambda engine: revoke(engine, key_id)):
        raise ResourceNotFound("no such key, or revoked already")
    if as_json:
        say_json({"revoked": str(key_id)})
    else:
        typer.echo("revoked")


@keys.command("alert-secret")
def alert_secret(as_json: AsJson = False) -> None:
    """Print the secret that signs alerts. It is derived from ACCEPTED_WEBHOOK_SECRET."""
    from accepted.settings import load

    master = load().webhook_secret
    if master is None:
        raise ConfigurationError("ACCEPTED_WEBHOOK_SECRET is not set, so alerts are not signed")
    secret = signing.secret_of_alerts(master)
    if as_json:
        say_json({"secret": secret})
    else:
        typer.echo(secret)


def _over_http() -> bool:
    """Whether the command is for a service: an option names it, or its address is all that is configured."""
    if client_options():
        return True
    from accepted.settings import load

    return bool(client_setting("url")) and load().database_url is None


def _create_in_ledger(tenant: str | None, name: str, scopes: list[str]) -> dict[str, Any]:
    from accepted.services.keys import create

    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ConfigurationError(f"unknown scope {unknown[0]!r}; there are {', '.join(SCOPES)}")
    for option, given in (("--tenant", tenant), ("--name", name), ("--scopes", scopes)):
        if not given or not is_printable("".join(given)):
            raise ConfigurationError(f"{option} must not be empty, and must be printable")
    assert tenant is not None
    if tenant.startswith(RESERVED):
        raise ConfigurationError(f"--tenant: names that begin with {RESERVED} are the service's own")
    key_id, key = with_ledger(lambda engine: create(engine, tenant, name, scopes))
    return {"id": str(key_id), "tenant": tenant, "name": name, "scopes": scopes, "key": key}


def _keys_in_ledger() -> "list[ApiKey]":
    from accepted.storage import tenants
    from accepted.storage.db.engine import transaction

    async def fetch(engine: "AsyncEngine") -> "list[ApiKey]":
        async with transaction(engine) as conn:
            return await tenants.list_keys(conn)

    return with_ledger(fetch)


def _as_json(key: "ApiKey") -> dict[str, Any]:
    revoked = key.revoked_at and key.revoked_at.isoformat()
    return {
        "id": str(key.id), "tenant": key.tenant, "name": key.name, "scopes": key.scopes,
        "created_at": key.created_at.isoformat(), "revoked_at": revoked,
    }  # fmt: skip


def _print(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    tenants = ["tenant"] if "tenant" in found[0] else []
    table = Table("id", *tenants, "name", "scopes", "created", "revoked")
    for key in found:
        names = [escape(shown(key[column])) for column in [*tenants, "name"]]
        created, revoked = (_minute(key[column]) for column in ("created_at", "revoked_at"))
        table.add_row(key["id"], *names, ",".join(key["scopes"]), created, revoked)
    Console(width=160).print(table)


def _minute(moment: str | None) -> str:
    """A time in RFC 3339, to the minute."""
    return (moment or "")[:16].replace("T", " ")
