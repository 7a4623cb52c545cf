"""Thumbnails of good, broken and malicious pictures."""

import base64
import io
import struct
import zlib
from typing import Any

import jsonschema_rs
import pytest
from PIL import Image
from pydantic import ValidationError

from accepted.domain.failures import InvalidJob
from accepted_worker.handlers import pictures
from accepted_worker.handlers.image_thumbnail import Thumbnail
from accepted_worker.handlers.pictures import encode, make, memory_for

SCHEMA = jsonschema_rs.validator_for(Thumbnail.model_json_schema(), validate_formats=True)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(kind: str, size: tuple[int, int] = (400, 200), mode: str = "RGB", color: Any = RED, **saved: Any) -> bytes:
    """One colour, with a blue square in the upper left corner."""
    image = Image.new(mode, size, color)
    if mode == "RGB":
        image.paste(BLUE, (0, 0, size[0] // 4, size[1] // 4))
    return written(image, kind, **saved)


def written(image: Image.Image, kind: str, **saved: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **saved)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = "SecretPlace"
    return tags


def near(pixel: Any, color: tuple[int, ...]) -> bool:
    return all(abs(have - want) < 40 for have, want in zip(pixel, color, strict=True))


def bomb(side: int) -> bytes:
    """A PNG of one colour and one bit a pixel: small as a file, a gigabyte decoded."""
    packed = zlib.compressobj()
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack("!IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("target", ["jpeg", "png", "webp"])
def test_it_fits_the_box_and_keeps_its_proportions(kind: str, target: str) -> None:
    made = make(picture(kind), 100, 100, target)
    assert made.size == (100, 50)
    again = Image.open(io.BytesIO(encode(made, target, 80)))
    assert (again.format, again.size) == (target.upper(), (100, 50))
    pixels = again.convert("RGB")
    assert near(pixels.getpixel((5, 5)), BLUE)
    assert near(pixels.getpixel((90, 40)), RED)


def test_it_is_never_enlarged_and_never_nothing() -> None:
    assert make(picture("PNG", (30, 20)), 4096, 4096, "png").size == (30, 20)
    assert make(picture("PNG", (3000, 2)), 10, 10, "png").size == (10, 1)


# Where the corner that is blue in the pixels belongs, by the orientation that a camera notes (EXIF 2.3, 4.6.4).
UPRIGHT = {1: (5, 5), 2: (95, 5), 3: (95, 45), 4: (5, 45), 5: (5, 5), 6: (45, 5), 7: (45, 95), 8: (5, 95)}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_it_is_turned_upright_and_fits_the_box_then(orientation: int) -> None:
    made = make(picture("JPEG", exif=exif(orientation)), 100, 100, "jpeg")
    assert made.size == ((50, 100) if orientation >= 5 else (100, 50))
    assert near(made.getpixel(UPRIGHT[orientation]), BLUE)


def test_nothing_but_pixels_is_passed_on() -> None:
    source = picture("JPEG", exif=exif(1), icc_profile=b"SecretProfile", comment=b"SecretComment")
    assert source.count(b"Secret") == 3
    for target in ("jpeg", "png", "webp"):
        assert b"Secret" not in encode(make(source, 50, 50, target), target, 80)


def test_what_is_transparent_stays_so_or_becomes_white() -> None:
    source = picture("PNG", mode="RGBA", color=(0, 0, 0, 0))
    assert make(source, 50, 50, "png").getpixel((0, 0)) == (0, 0, 0, 0)
    assert make(source, 50, 50, "jpeg").getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_keeps_its_colours_and_its_transparent_one() -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, *RED])
    image.paste(0, (0, 0, 20, 40))
    made = make(written(image, "PNG", transparency=0), 20, 20, "png")
    assert made.getpixel((2, 2))[3] == 0
    assert near(made.getpixel((18, 18)), (*RED, 255))


def test_greys_of_16_bits_stay_grey() -> None:
    made = make(written(Image.new("I;16", (40, 40), 0x8000), "PNG"), 20, 20, "png")
    assert near(made.getpixel((5, 5)), (128, 128, 128))


def test_the_colours_of_printers_are_read() -> None:
    assert near(
        make(written(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"), 20, 20, "png").getpixel((5, 5)), RED
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_what_moves_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in (RED, BLUE, RED)]
    source = written(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert getattr(Image.open(io.BytesIO(source)), "n_frames", 1) == 3
    made = make(source, 32, 32, "png")
    assert near(made.getpixel((16, 16))[:3], RED)
    assert getattr(Image.open(io.BytesIO(encode(made, "webp", 80))), "n_frames", 1) == 1


def test_a_picture_too_large_to_decode_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.core, "new", decoded)
    with pytest.raises(InvalidJob, match="more than 64000000 pixels"):
        make(bomb(30000), 100, 100, "png")


def test_a_frame_larger_than_its_header_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GIF of 1 x 1 whose first frame is enormous."""
    source = bytearray(picture("GIF", (200, 200)))
    source[6:10] = struct.pack("<HH", 1, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    with pytest.raises(InvalidJob, match="pixels"):
        make(bytes(source), 100, 100, "png")


JPEG = picture("JPEG")
BROKEN = {
    "nothing": b"",
    "text": b"Hello, world.\n" * 100,
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "a JPEG's start": JPEG[:4],
    "half a PNG": picture("PNG")[:60],
    "a PNG with a wrong sum": picture("PNG").replace(b"IDAT", b"IDAX"),
    "a PNG with a header of 2 bytes": picture("PNG").replace(b"\x0dIHDR", b"\x02IHDR"),
    "a JPEG with broken EXIF": JPEG[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + JPEG[20 : len(JPEG) // 2],
    "a TIFF": written(Image.new("RGB", (9, 9)), "TIFF"),
    "a PDF": written(Image.new("RGB", (9, 9)), "PDF"),
    "PostScript": written(Image.new("RGB", (9, 9)), "EPS"),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_what_is_no_sound_picture_is_invalid(source: bytes) -> None:
    with pytest.raises(InvalidJob):
        make(source, 100, 100, "png")


BOX = {"width": 10, "height": 10}
IMAGE = base64.b64encode(b"x").decode()


@pytest.mark.parametrize(
    "payload",
    [
        BOX | {"image": IMAGE},
        {"image": "", "width": 1, "height": 4096, "format": "webp", "quality": 1},
        BOX | {"url": "x"},
    ],
)
def test_taken(payload: dict[str, Any]) -> None:
    assert SCHEMA.is_valid(payload)
    Thumbnail.model_validate(payload)


@pytest.mark.parametrize(
    "payload",
    [
        *({}, BOX, {"image": IMAGE}, BOX | {"image": IMAGE, "url": "https://a.example/"}, BOX | {"image": "a"}),
        *(BOX | {"image": IMAGE, name: value} for name in ("width", "height") for value in (0, 4097, "a", 1.5, None)),
        *(BOX | {"image": IMAGE, "quality": value} for value in (0, 101, None)),
        *(BOX | {"image": IMAGE, "format": value} for value in ("gif", "JPEG", "", None)),
        BOX | {"image": IMAGE, "more": 1},
    ],
)
def test_refused(payload: dict[str, Any]) -> None:
    assert not SCHEMA.is_valid(payload)
    with pytest.raises(ValidationError):
        Thumbnail.model_validate(payload)


SOURCES = {
    "a WebP": picture("WEBP", (1200, 1200)),
    "a WebP without loss": written(Image.new("RGBA", (1200, 1200), RED), "WEBP", lossless=True),
    "a WebP that moves": written(
        Image.new("RGB", (1200, 1200), RED), "WEBP", save_all=True, append_images=[Image.new("RGB", (1200, 1200), BLUE)]
    ),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_the_size_of_a_webp_is_known_before_it_is_opened(source: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1200 * 1200)
    assert memory_for(source, 100, 100) > 20 * 1200 * 1200
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1200 * 1200 - 1)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(InvalidJob, match="pixels"):
        memory_for(source, 100, 100)


def test_what_a_picture_takes_depends_on_its_format_and_the_box() -> None:
    side = 2000
    pixels = side * side
    grey = picture("JPEG", (side, side))
    assert memory_for(grey, 100, 100) < 3 * pixels, "a JPEG is decoded at an eighth of its size"
    assert memory_for(grey, side, side) > 4 * pixels
    assert memory_for(picture("JPEG", (side, side), progressive=True), 100, 100) > 8 * pixels
    assert memory_for(picture("PNG", (side, side)), 100, 100) > 13 * pixels
