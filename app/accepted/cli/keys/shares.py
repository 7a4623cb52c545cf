"""`accepted keys quota` and `share`: what a tenant may submit and run, directly in the ledger."""

from typing import TYPE_CHECKING, Annotated

import typer

from accepted.cli.http import AsJson, say_json
from accepted.cli.keys.ledger import with_ledger
from accepted.domain.monitoring.audit import Action
from accepted.domain.tenants import TenantQuota, TenantShare
from accepted.errors import ConfigurationError, ResourceNotFound, did_you_mean

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


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
    now = with_ledger(change)
    if as_json:
        say_json(None if now is None else {"jobs": now.jobs, "per": now.per, "remaining": now.remaining})
    else:
        typer.echo("no quota" if now is None else f"{now.jobs} jobs in {now.per:g} s, {now.remaining} left")


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
    now = with_ledger(change)
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
