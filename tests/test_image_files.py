"""Reading one image: every mode, every format, damaged files, and sizes that lie."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib

import numpy
import pytest
from PIL import Image

from tasks.vision.image_files import MOST_PIXELS, read_grey

GREY = numpy.arange(16 * 12, dtype="uint8").reshape(12, 16)
COLOUR = numpy.stack([GREY, GREY, GREY], axis=-1)


def with_alpha(pixels, alpha):
    return numpy.concatenate([pixels, numpy.full((*pixels.shape[:2], 1), alpha, "uint8")], axis=-1)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("L", "png"), ("RGB", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("L", "bmp"), ("RGB", "bmp"),
     ("RGBA", "bmp"), ("P", "bmp"), ("L", "pgm"), ("RGB", "ppm"), ("RGBA", "pnm")],
)  # fmt: skip
def test_modes_whose_grey_is_certain_are_read(mode, ending, tmp_path):
    pixels = {
        "L": GREY,
        "P": GREY,
        "RGB": COLOUR,
        "LA": with_alpha(GREY[..., None], 255),
        "RGBA": with_alpha(COLOUR, 255),
    }
    image = Image.fromarray(pixels[mode])
    if mode == "P":
        image.putpalette([value for value in range(256) for _ in "RGB"])
    image.save(tmp_path / f"x.{ending}")
    grey = read_grey(tmp_path / f"x.{ending}")
    assert grey.mode == "L"
    numpy.testing.assert_array_equal(numpy.asarray(grey), GREY)


def test_black_and_white_is_read_as_0_and_255(tmp_path):
    for ending in ("png", "pbm"):
        Image.fromarray(GREY > 90).save(tmp_path / f"x.{ending}")
        numpy.testing.assert_array_equal(numpy.asarray(read_grey(tmp_path / f"x.{ending}")), 255 * (GREY > 90))


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(GREY % 3)
    image.putpalette([0, 0, 0, 200, 200, 200, 255, 255, 255])
    image.save(tmp_path / "x.png")
    numpy.testing.assert_array_equal(numpy.asarray(read_grey(tmp_path / "x.png")), numpy.array([0, 200, 255])[GREY % 3])


def png_16_bits(pixels):
    """A grey PNG of 16 bits, written by hand."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header(*pixels.shape[::-1], 16))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def header(width, height, bits):
    return struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


TRANSPARENT = "expected an opaque image, got transparent pixels"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_16_bits(GREY), "expected 8-bit grey or RGB, got Pillow's mode I"),
        (b"P5 16 12 65535\n" + GREY.astype(">u2").tobytes(), "got Pillow's mode I"),
        (b"P5 16 12 1000\n" + GREY.astype(">u2").tobytes(), "got Pillow's mode I"),
        (b"Pf 16 12 -1.0\n" + GREY.astype("<f4").tobytes(), "expected"),
        (saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), "got Pillow's mode CMYK"),
        (saved(Image.fromarray(with_alpha(COLOUR, 254)), "PNG"), TRANSPARENT),
        (saved(Image.fromarray(with_alpha(GREY[..., None], 0)), "PNG"), TRANSPARENT),
        (saved(Image.fromarray(GREY), "PNG", transparency=7), TRANSPARENT),
        (saved(Image.fromarray(COLOUR), "PNG", transparency=(7, 7, 7)), TRANSPARENT),
        (saved(Image.fromarray(COLOUR).quantize(), "PNG", transparency=0), TRANSPARENT),
        (saved(Image.fromarray(GREY), "PNG", save_all=True, append_images=[Image.fromarray(GREY.T.reshape(12, 16))]),
         "expected one picture in a file, got 2"),
        (saved(Image.fromarray(GREY), "GIF"), "expected an image .* begins with b'GIF8"),
        (saved(Image.fromarray(GREY), "TIFF"), "expected an image .* begins with b'II"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected an image .* begins with b'%!PS-Ado'"),
        (b"", "got an empty file"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused_with_what_was_found(content, message, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.png: .*{message}"):
        read_grey(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM"])
def test_a_truncated_image_is_refused(kind, tmp_path):
    noise = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (6, 8, 3), "uint8"))
    whole = saved(noise, kind)
    path = tmp_path / "x"
    unused = {"PNG": 4, "JPEG": 2}.get(kind, 0)  # bytes at the end: the checksum of nothing, the end mark
    for length in range(len(whole) - unused):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x: expected an image"):
            read_grey(path)


def test_every_flipped_bit_of_a_png_is_noticed(tmp_path):
    whole = saved(Image.fromarray(GREY[:4, :4].copy()), "PNG")
    path = tmp_path / "x"
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):  # not refused: in the end mark, or in what is not used
            numpy.testing.assert_array_equal(numpy.asarray(read_grey(path)), GREY[:4, :4])


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header(100_000, 100_000, 8)) + chunk(b"IDAT", zlib.compress(bytes(99))),
        b"P5 100000 100000 255\n" + bytes(99),
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 154, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99),
        b"P5 8000 5001 255\n" + bytes(99),
    ],
)
def test_an_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x: expected (at most 40000000 pixels, got 8000 x 5001|an image .* exceeds)"):
        read_grey(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20 < MOST_PIXELS
    tracemalloc.stop()


def test_an_exif_orientation_is_followed_or_refused_beside_landmarks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees clockwise
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    numpy.testing.assert_array_equal(numpy.asarray(read_grey(tmp_path / "x.png")), numpy.rot90(GREY, -1))
    with pytest.raises(ValueError, match=r"x.png: expected no EXIF orientation with landmarks, got 6"):
        read_grey(tmp_path / "x.png", in_stored_pixels=True)
