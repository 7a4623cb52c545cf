"""Makes a picture small, with Pillow. No worker loads this, only a child process that runs `image.thumbnail`."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from PIL import Image, ImageOps

from accepted.domain.failures import InvalidJob

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""The formats that are read. Pillow knows many more, whose decoders are tested less."""

MAX_PIXELS = 64_000_000
"""Of the source: more than most phones make, and 256 MB when decoded with transparency."""

ROTATED = (5, 6, 7, 8)
"""Values of the EXIF tag Orientation for pictures that are rotated by 90 degrees."""

ORIENTATION = 0x0112

RESIZABLE = ("L", "RGB", "RGBA", "CMYK")
"""Modes in which pixels can be averaged; the numbers of a palette cannot."""

DECODED = {"JPEG": 4, "GIF": 10, "PNG": 13, "WEBP": 20}
"""Bytes for each pixel of the source, measured over all modes, and rounded up: the picture, a copy with
another mode, and for WebP the two canvases and the frame that its decoder keeps beside them."""

COEFFICIENTS = 8
"""Bytes more for each pixel of a progressive JPEG, of which all scans are kept until the last."""

COPIED = 12
"""Bytes for each pixel of the small picture: its copies, and what its encoder keeps."""

OVERHEAD = 8 * 2**20

# Pillow looks at the header's size as it opens a file, and at sizes that it learns later. It warns above this, and
# raises above twice as much; `make` turns the warning into an error.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def memory_for(source: bytes, width: int, height: int) -> int:
    """The bytes that decoding, `make` and `encode` take at most, by the header. Raises `InvalidJob` as `make` does."""
    with _opened(source) as picture:
        pixels = picture.width * picture.height
        decoded = pixels
        if picture.format == "JPEG":  # which is decoded at a fraction of its size
            decoded //= _draft_scale(min(picture.size) // (2 * max(width, height))) ** 2
        coefficients = COEFFICIENTS * pixels if picture.info.get("progressive") else 0
        taken = DECODED.get(str(picture.format), max(DECODED.values())) * decoded
        return OVERHEAD + 2 * len(source) + coefficients + taken + COPIED * min(pixels, width * height)


def make(source: bytes, width: int, height: int, target: str) -> Image.Image:
    """The picture within the box, upright, as RGB or RGBA. Raises `InvalidJob` if it is broken or too large."""
    with _opened(source) as picture:
        return _within(picture, width, height, keep_alpha=target != "jpeg")


@contextmanager
def _opened(source: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            if _pixels_of_webp(source) > MAX_PIXELS:
                raise Image.DecompressionBombError
            with Image.open(io.BytesIO(source), formats=FORMATS) as picture:
                yield picture
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise InvalidJob(f"the picture has more than {MAX_PIXELS} pixels") from None
        except MemoryError:
            raise
        except Exception as error:  # broken pictures raise OSError, SyntaxError, struct.error and more
            raise InvalidJob(f"not a picture that can be read: {type(error).__name__}") from error


def _pixels_of_webp(source: bytes) -> int:
    """By its header (RFC 9649, section 2.5 to 2.7); 0 if it is no WebP. Pillow allocates all as it opens one."""
    head = source[:30]
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0
    number = partial(int.from_bytes, byteorder="little")
    match head[12:16]:
        case b"VP8X":
            return (1 + number(head[24:27])) * (1 + number(head[27:30]))
        case b"VP8L":
            return (1 + (number(head[21:25]) & 0x3FFF)) * (1 + (number(head[21:25]) >> 14 & 0x3FFF))
        case b"VP8 ":
            return (number(head[26:28]) & 0x3FFF) * (number(head[28:30]) & 0x3FFF)
    return 0


def _draft_scale(room: int) -> int:
    """By what libjpeg reduces a picture that is `room` times as large as what is asked of it."""
    return max(scale for scale in (1, 2, 4, 8) if scale <= max(1, room))


def _within(picture: Image.Image, width: int, height: int, *, keep_alpha: bool) -> Image.Image:
    lies = picture.getexif().get(ORIENTATION) in ROTATED
    small = picture if picture.mode in RESIZABLE else _plain(picture)
    small.thumbnail((height, width) if lies else (width, height))  # a JPEG is decoded at a fraction of its size
    upright = _plain(ImageOps.exif_transpose(small))
    return upright if keep_alpha or upright.mode == "RGB" else _on_white(upright)


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # greys of 16 bits, which `convert` would cut off at 255
        picture = picture.point(lambda grey: grey * (1 / 256)).convert("L")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    return flat


def encode(picture: Image.Image, target: str, quality: int) -> bytes:
    picture.info.clear()  # else Pillow writes some of it into the copy
    encoded = io.BytesIO()
    picture.save(encoded, target, quality=quality, optimize=True)
    return encoded.getvalue()
