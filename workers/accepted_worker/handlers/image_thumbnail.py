"""The job type `image.thumbnail`: makes a picture small, in a child process, because decoding takes CPU time.

The picture is not trusted: its format is one of a short list, its size is read from its header before a pixel is
decoded, only its first frame is read, and nothing but pixels is passed on. What it takes in memory comes out of a
budget of the worker, so that many small files that are large pictures cannot take all there is.
"""

import base64
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from accepted import Context, job
from accepted.context import HttpClient
from accepted.domain.failures import InvalidJob
from accepted.payload_types import Base64, Url
from accepted_worker import memory_budget
from accepted_worker.handlers.http_request import judge

MAX_SOURCE_BYTES = 32 * 2**20
MAX_SIDE = 4096
FETCH_SECONDS = 30.0


class Thumbnail(BaseModel):
    """Fit a picture into a box. It keeps its proportions, is never enlarged, and is turned upright."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": ["image"]}, {"required": ["url"]}]}
    )

    image: Base64 = Field(b"", description="A JPEG, PNG, WebP or GIF; or give its address in `url`.")
    url: Url = Field("", description="Address of the picture, of up to 32 MiB; or give it in `image`.")
    width: int = Field(ge=1, le=MAX_SIDE, description="Of the box, in pixels.")
    height: int = Field(ge=1, le=MAX_SIDE, description="Of the box, in pixels.")
    format: Literal["jpeg", "png", "webp"] = Field("jpeg", description="In a JPEG, what is transparent becomes white.")
    quality: int = Field(80, ge=1, le=100, description="Of a JPEG or a WebP.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if ("image" in self.model_fields_set) == ("url" in self.model_fields_set):
            raise ValueError("either image or url is required")
        return self


@job("image.thumbnail", timeout=60, runs_in="process", description="Make a small copy of a picture.")
async def image_thumbnail(payload: Thumbnail, ctx: Context) -> dict[str, Any]:
    """Result: `width`, `height`, `format`, `bytes` (their number) and `image` (base64)."""
    from accepted_worker.handlers import pictures

    source = await fetched(payload.url, ctx.egress) if payload.url else payload.image
    with memory_budget.reserved(pictures.memory_for(source, payload.width, payload.height)):
        small = pictures.make(source, payload.width, payload.height, payload.format)
        encoded = pictures.encode(small, payload.format, payload.quality)
    return {
        "width": small.width,
        "height": small.height,
        "format": payload.format,
        "bytes": len(encoded),
        "image": base64.b64encode(encoded).decode(),
    }


async def fetched(url: str, egress: HttpClient) -> bytes:
    """The whole picture at `url`."""
    headers = {"Accept": "image/*"}
    answer = await egress.send("GET", url, headers, b"", timeout=FETCH_SECONDS, max_bytes=MAX_SOURCE_BYTES)
    judge(answer, None)
    if answer.truncated:
        raise InvalidJob(f"the picture is larger than {MAX_SOURCE_BYTES} bytes")
    return answer.body
