"""`accepted keys`: create, list and revoke API keys, and set quotas and shares, directly in the ledger."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from accepted.cli.http import AsJson, say_json, shown
from accepted.domain.json_text import is_printable
from accepted.domain.monitoring.audit import Action
from accepted.domain.network import signing
from accepted.domain.tenants import RESERVED, SCOPES, TenantQuota, TenantShare
from accepted.errors import ConfigurationError, ResourceNotFound, did_you_mean

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from accepted.storage.tenants import ApiKey

keys = typer.Typer(
    no_args_is_help=True, help="Create, list and revoke API keys; set the quota and the share of a tenant."
)

Answer = TypeVar("Answer")


@keys.command("create")
def create_key(
    tenant: Annotated[str, typer.Option(help="The tenant whose jobs the key sees.")],
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[str, typer.Option(help="Comma-separated: " + ", ".join(SCOPES))] = "jobs:read,jobs:write",
    as_json: AsJson = False,
) -> None:
    """Create a key. It is printed once and cannot be shown again.

    `admin` includes webhooks:read, webhooks:write and queues:admin; `operator` is for what tenants share.
    """
    from accepted.services.keys import create

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise ConfigurationError(f"unknown scope {unknown[0]!r}; there are {', '.join(SCOPES)}")
    for option, given in (("--tenant", tenant), ("--name", name), ("--scopes", wanted)):
        if not given or not is_printable("".join(given)):
            raise ConfigurationError(f"{option} must not be empty, and must be printable")
    if tenant.startswith(RESERVED):
        raise ConfigurationError(f"--tenant: names that begin with {RESERVED} are the service's own")
    key_id, key = _with_ledger(lambda engine: create(engine, tenant, name, wanted))
    if as_json:
        say_json({"id": str(key_id), "tenant": tenant, "name": name, "scopes": wanted, "key": key})
        return
    typer.echo(f"id: {key_id}", err=True)
    typer.echo(key)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, without their secrets."""
    from accepted.storage import tenants
    from accepted.storage.db.engine import transaction

    async def fetch(engine: "AsyncEngine") -> "list[ApiKey]":
        async with transaction(engine) as conn:
            return await tenants.list_keys(conn)

    found = _with_ledger(fetch)
    if as_json:
        say_json({"items": [_as_json(key) for key in found]})
    elif found:
        _print(found)
    else:
        typer.echo("no keys", err=True)


def _as_json(key: "ApiKey") -> dict[str, Any]:
    revoked = key.revoked_at and key.revoked_at.isoformat()
    return {
        "id": str(key.id), "tenant": key.tenant, "name": key.name, "scopes": key.scopes,
        "created_at": key.created_at.isoformat(), "revoked_at": revoked,
    }  # fmt: skip


def _print(found: "list[ApiKey]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "tenant", "name", "scopes", "created", "revoked")
    for key in found:
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        created = f"{key.created_at:%Y-%m-%d %H:%M}"
        tenant, name = (escape(shown(one)) for one in (key.tenant, key.name))
        table.add_row(str(key.id), tenant, name, ",".join(key.scopes), created, revoked)
    Console(width=160).print(table)


@keys.command("revoke")
def revoke_key(key_id: UUID, as_json: AsJson = False) -> None:
    """Revoke a key. API processes stop accepting it within half a second."""
    from accepted.services.keys import revoke

    if not _with_ledger(lambda engine: revoke(engine, key_id)):
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


@keys.command()
def quota(
    tenant: Annotated[str, typer.Option(help="Name of the tenant.")],
    jobs: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Jobs allowed in --per seconds.")] = None,
    per: Annotated[int, typer.Option(min=1, max=366 * 86400, help="Seconds.")] = 60,
    none: Annotated[bool, typer.Option("--none", help="Remove the quota.")] = False,
    create: Annotated[bool, typer.Option("--create", help="Also for a tenant that has no key yet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set, remove or show how many jobs a tenant may submit. API processes apply it within half a second."""
    from accepted.storage import tenants
    from accepted.storage.db.engine import transaction

    async def change(engine: "AsyncEngine") -> TenantQuota | None:
        async with transaction(engine) as conn:
            await _check_known(conn, tenant, create)
            before = await tenants.quota_of(conn, tenant)
            if none:
                await tenants.remove_quota(conn, tenant)
            elif jobs is not None:
                await tenants.put_quota(conn, tenant, jobs, per)
            now = await tenants.quota_of(conn, tenant)
            if none or jobs is not None:
                await _record(conn, Action.QUOTA_CHANGED, tenant, before, now, "jobs", "per")
            await conn.commit()
            return now

    if none and jobs is not None:
        raise ConfigurationError("give --jobs or --none, not both")
    now = _with_ledger(change)
    if as_json:
        say_json(None if now is None else {"jobs": now.jobs, "per": now.per, "remaining": now.remaining})
    else:
        typer.echo("no quota" if now is None else f"{now.jobs} jobs in {now.per:g} s, {now.remaining} left")


@keys.command()
def share(
    tenant: Annotated[str, typer.Option(help="Name of the tenant.")],
    weight: Annotated[int | None, typer.Option(min=1, max=100, help="Its turns beside those of others; 1.")] = None,
    max_running: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Jobs that may run at once, over all queues.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Let it have the share of every other.")] = False,
    create: Annotated[bool, typer.Option("--create", help="Also for a tenant that has no key yet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set, remove or show a tenant's share of the slots. What is left out does not change."""
    from accepted.storage import tenants
    from accepted.storage.db.engine import transaction

    async def change(engine: "AsyncEngine") -> TenantShare:
        async with transaction(engine) as conn:
            await _check_known(conn, tenant, create)
            before = await tenants.share_of(conn, tenant)
            if none:
                await tenants.remove_share(conn, tenant)
            elif weight is not None or max_running is not None:
                await tenants.put_share(conn, tenant, weight, max_running)
            now = await tenants.share_of(conn, tenant)
            if now != before:
                await _record(conn, Action.SHARE_CHANGED, tenant, before, now, "weight", "max_running")
            await conn.commit()
            return now

    if none and (weight is not None or max_running is not None):
        raise ConfigurationError("give --weight or --max-running, or --none")
    now = _with_ledger(change)
    if as_json:
        say_json({"weight": now.weight, "max_running": now.max_running})
        return
    running = "any number" if now.max_running is None else f"at most {now.max_running}"
    typer.echo(f"weight {now.weight}, {running} running")


async def _record(
    conn: "AsyncConnection", action: Action, tenant: str, before: object, after: object, *names: str
) -> None:
    """Record these fields as they were and as they are; null: there was, or is, none."""
    from accepted.services.monitoring import audit

    was, is_ = ({name: getattr(one, name) for name in names} if one else None for one in (before, after))
    await audit.record(conn, action, tenant, tenant, before=was, after=is_)


async def _check_known(conn: "AsyncConnection", tenant: str, create: bool) -> None:
    from accepted.storage import tenants

    if not create and tenant not in (known := await tenants.known(conn)):
        hint = did_you_mean(tenant, known)
        raise ResourceNotFound(f"the tenant {tenant!r} has no API key{hint or ' (--create: set it anyway)'}")


def _with_ledger(work: "Callable[[AsyncEngine], Awaitable[Answer]]") -> Answer:
    """Do it with the ledger, if its schema is what this version needs, or newer."""
    from accepted.services.monitoring import audit
    from accepted.settings import load
    from accepted.storage.db import migrate

    async def checked(engine: "AsyncEngine") -> Answer:
        await migrate.check(engine)
        audit.act_on_ledger()
        return await work(engine)

    return on_ledger(load().require_database(), checked)


def on_ledger(url: str, work: "Callable[[AsyncEngine], Awaitable[Answer]]") -> Answer:
    """What `work` returns, with an engine for the ledger at `url`."""
    import uvloop

    from accepted.storage.db.engine import create_engine

    async def run() -> Answer:
        engine = create_engine(url, pool_size=1)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    return uvloop.run(run())
