"""The shop's handlers: what the workers of Accepted run."""

from pydantic import BaseModel
from sqlalchemy import text

from accepted import Context, InvalidJob, Retry, job


class Order(BaseModel):
    number: int
    cents: int


@job("order.pay", queue="orders", timeout=60, retry=Retry(max_attempts=3, schedule=(1, 30)))
async def pay(order: Order, ctx: Context) -> dict[str, str]:
    """Charges an order, writes its receipt, and has it sent."""
    if order.cents <= 0:
        raise InvalidJob("nothing to pay")
    await ctx.progress(10, "charging")
    receipt = await ctx.step("charge", charge, order.cents, key=str(ctx.job.id))
    await ctx.submit("receipt.send", {"number": order.number, "receipt": receipt})
    async with ctx.transaction() as conn:  # commits with the job's success
        values = {"receipt": receipt, "number": order.number}
        await conn.execute(text("UPDATE public.orders SET receipt = :receipt WHERE number = :number"), values)
    return {"receipt": receipt}


async def charge(cents: int, key: str) -> str:
    """Calls the bank, with `key` for its idempotency. It runs once for a job, whatever dies afterwards."""
    return f"R-{cents}-{key[-4:]}"


class Receipt(BaseModel):
    number: int
    receipt: str


@job("receipt.send", queue="mails")
def send(receipt: Receipt, ctx: Context) -> None:
    ctx.log.info("sent", number=receipt.number, receipt=receipt.receipt)
