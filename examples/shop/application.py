"""The shop's HTTP application: it takes orders, and hears from Accepted what came of them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from accepted import AsyncClient, transaction, webhooks
from shop.handlers import Order, pay

SHOP_URL = os.environ.get("SHOP_URL", "http://127.0.0.1:8001")

MOST_CENTS = 100_000

ORDERS = """
CREATE TABLE IF NOT EXISTS public.orders (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, cents bigint NOT NULL, status text NOT NULL DEFAULT 'new',
    receipt text
)
"""


class NewOrder(BaseModel):
    cents: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with (
        asyncpg.create_pool(os.environ["SHOP_DATABASE_URL"], min_size=1) as app.state.pool,
        AsyncClient() as app.state.accepted,  # ACCEPTED_URL, ACCEPTED_API_KEY
    ):
        await app.state.pool.execute(ORDERS)
        yield


app = FastAPI(title="A shop", lifespan=lifespan)


@app.post("/orders", status_code=201)
async def order(new: NewOrder) -> dict[str, Any]:
    """The order and its job are there together, or neither is."""
    async with app.state.pool.acquire() as conn, conn.transaction():
        number = await conn.fetchval("INSERT INTO public.orders (cents) VALUES ($1) RETURNING number", new.cents)
        payload = Order(number=number, cents=new.cents)
        job_id = await transaction.submit(conn, pay, payload, callback_url=f"{SHOP_URL}/webhooks")
        if new.cents > MOST_CENTS:
            raise HTTPException(422, "too expensive")  # rolls back both
    return {"number": number, "job": str(job_id)}


@app.get("/orders/{number}")
async def status(number: int) -> dict[str, Any]:
    found = await app.state.pool.fetchrow("SELECT * FROM public.orders WHERE number = $1", number)
    if found is None:
        raise HTTPException(404)
    return dict(found)


@app.post("/webhooks", status_code=204)
async def told(request: Request) -> None:
    """A webhook may come twice: this changes nothing the second time."""
    try:
        secrets = await app.state.accepted.webhook_secrets()
        event = webhooks.verify(await request.body(), request.headers, secrets)
    except webhooks.WebhookRefused as refused:
        raise HTTPException(400) from refused
    outcome = "paid" if event.type == "job.succeeded" else "not paid"
    number = event.job.payload["number"]
    await app.state.pool.execute("UPDATE public.orders SET status = $2 WHERE number = $1", number, outcome)
