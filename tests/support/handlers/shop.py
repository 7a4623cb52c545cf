"""The handlers that docs/client.md speaks of, as `shop.handlers`."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from accepted import Context, NotFound, job


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int


@job("invoice.print")
async def print_invoice(payload: Order, ctx: Context) -> dict[str, Any]:
    if payload.number == 404:
        raise NotFound("there is no order 404")
    return {"pages": payload.number if payload.number < 7 else 1}


@job("invoice.bind")
def bind(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    return {"pages": sum(result["pages"] for result in ctx.results.values())}
