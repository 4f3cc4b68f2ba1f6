"""Read one image file as 8-bit grey, or raise an error with the mode or defect that was found."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# only these formats: others start programs (EPS: Ghostscript) or are rarely tested
FORMATS = ("JPEG", "PNG", "BMP", "PPM")  # PPM stands for PBM, PGM, PPM and PNM
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm")
MOST_PIXELS = 40_000_000
MOST_BYTES = 4 * MOST_PIXELS
OPAQUE = ("L", "RGB", "1")  # modes whose conversion to grey is unambiguous
WITH_ALPHA = ("P", "PA", "LA", "RGBA")  # unambiguous if no pixel is transparent


class _Unfit(Exception):
    """The image is intact, but its grey values are ambiguous."""


def read_grey(path: Path, in_stored_pixels: bool = False) -> Image.Image:
    """Return the image as 8-bit grey ("L"), upright.

    path: a JPEG, PNG, BMP, PBM, PGM or PPM file.
    in_stored_pixels: whether landmarks in pixels belong to the image. If so, an EXIF orientation is refused, because
        the landmarks may refer to the image before or after the rotation. Otherwise the orientation is applied.

    Accept 1-bit, 8-bit grey, RGB and palette images, also with an alpha channel if all pixels are opaque. Of 16-bit
    colours Pillow returns the upper byte. Refuse 16-bit and 32-bit grey, whose white is ambiguous, CMYK, transparent
    pixels and several pictures in a file. Raise ValueError, naming the file and the mode found, for these, for damaged
    files and for more than 40 million pixels. Pixels are counted before decoding.
    """
    if not path.is_file():  # reading a pipe would block for ever
        raise ValueError(f"{path}: expected an image, got {'a folder' if path.is_dir() else 'no regular file'}")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: expected at most {MOST_BYTES} bytes, got {path.stat().st_size}")
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of damage
            return _grey(content, in_stored_pixels)
    except _Unfit as error:
        raise ValueError(f"{path}: {error}") from None
    except UnidentifiedImageError as error:
        begin = f"got a file that begins with {content[:8]!r}" if content else "got an empty file"
        raise ValueError(f"{path}: expected an image (JPEG, PNG, BMP, PGM or PPM), {begin}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        text = str(error) or type(error).__name__
        raise ValueError(
            f"{path}: expected an image (JPEG, PNG, BMP, PGM or PPM), got one that cannot be read: {text}"
        ) from error


def _grey(content: bytes, in_stored_pixels: bool) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _Unfit(f"expected at most {MOST_PIXELS} pixels, got {width} x {height}")
        if image.format == "PNG":
            Image.open(io.BytesIO(content), formats=("PNG",)).verify()  # decoding does not compare the checksums
        pictures = getattr(image, "n_frames", 1)
        if pictures > 1:
            raise _Unfit(f"expected one picture in a file, got {pictures}; save one of them to its own file")
        image.load()
        if in_stored_pixels and (turned := image.getexif().get(ExifTags.Base.Orientation, 1)) not in (0, 1):
            raise _Unfit(
                f"expected no EXIF orientation with landmarks, got {turned}: they may refer to the image before or "
                "after the rotation; save the image upright, without an orientation"
            )
        return _eight_bits(ImageOps.exif_transpose(image))


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        opacity, _ = image.getchannel("A").getextrema()
        if opacity < 255:  # type: ignore[operator]
            raise _Unfit("expected an opaque image, got transparent pixels; put it on a background")
        image = image.convert("RGB")
    if image.mode not in OPAQUE:
        raise _Unfit(
            f"expected 8-bit grey or RGB, got Pillow's mode {image.mode}, in which white is not certain; "
            "convert it to 8 bits"
        )
    return image.convert("L")
