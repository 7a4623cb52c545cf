"""What names mean in `ctx.transaction()`: the application's tables, never ours, whatever they are called."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, job
from tests.support.ledger.sql import do, rows
from tests.support.service.worker_with_handlers import worker_with_handlers

PATH = "SELECT current_setting('search_path')"


async def test_the_applications_own_table_called_jobs(engine: AsyncEngine, database_url: str) -> None:
    """It shares its names with ours: neither is taken for the other."""
    await do(engine, "CREATE TABLE public.jobs (n int)")

    @job("hires", queue="q")
    async def hires(payload: dict[str, Any], ctx: Context) -> int:
        async with ctx.transaction() as conn:
            await conn.execute(text("INSERT INTO jobs VALUES (7)"))
            return (await conn.execute(text("SELECT n FROM jobs"))).scalar_one()

    async with worker_with_handlers(engine, database_url, hires) as worker:
        done = await worker.finish("hires")
    assert (done.status, done.result) == ("succeeded", "7")
    assert [row["n"] for row in await rows(engine, "SELECT n FROM public.jobs")] == [7]


async def test_the_path_is_that_of_the_role(engine: AsyncEngine, database_url: str) -> None:
    name = database_url.rsplit("/", 1)[1]
    await do(engine, "CREATE SCHEMA shop")
    await do(engine, f'ALTER DATABASE "{name}" SET search_path TO shop, public')
    seen: list[str] = []

    @job("looks", queue="q")
    async def looks(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            seen.append((await conn.execute(text(PATH))).scalar_one())

    async with worker_with_handlers(engine, database_url, looks) as worker:
        assert (await worker.finish("looks")).status == "succeeded"
    assert seen == ["shop, public"]


async def test_what_a_handler_sets_ends_with_its_transaction(engine: AsyncEngine, database_url: str) -> None:
    """Neither our settlement nor the next handler on the same connection meets it."""
    await do(engine, "CREATE SCHEMA shop")
    seen: list[tuple[str, str]] = []

    @job("sets", queue="q")
    async def sets(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            timeout = (await conn.execute(text("SELECT current_setting('work_mem')"))).scalar_one()
            seen.append(((await conn.execute(text(PATH))).scalar_one(), timeout))
            await conn.execute(text("SET search_path TO shop"))
            await conn.execute(text("SET work_mem TO '77MB'"))
            await conn.execute(text("CREATE TEMPORARY TABLE attempts (n int)"))

    async with worker_with_handlers(engine, database_url, sets) as worker:
        for _ in range(3):
            assert (await worker.finish("sets")).status == "succeeded"
    assert len(set(seen)) == 1
    assert seen[0][0] == '"$user", public'


async def test_a_deferred_trigger_of_the_application_finds_its_tables(engine: AsyncEngine, database_url: str) -> None:
    """It fires at the commit, which is ours, and its function names its tables without a schema."""
    await do(engine, "CREATE TABLE public.orders (n int)")
    await do(engine, "CREATE TABLE public.jobs (n int)")
    await do(
        engine,
        "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO jobs VALUES (NEW.n); RETURN NEW; END'",
    )
    await do(
        engine,
        "CREATE CONSTRAINT TRIGGER noted AFTER INSERT ON public.orders DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION public.note()",
    )

    @job("orders", queue="q")
    async def orders(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(text("INSERT INTO orders VALUES (3)"))

    async with worker_with_handlers(engine, database_url, orders) as worker:
        assert (await worker.finish("orders")).status == "succeeded"
    assert [row["n"] for row in await rows(engine, "SELECT n FROM public.jobs")] == [3]
