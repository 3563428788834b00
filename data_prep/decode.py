"""Bytes of a picture from anywhere → an RGB picture as a person sees it, or the reason why not."""

import io
import logging
import struct
import warnings
import zlib
from functools import cache
from pathlib import PurePosixPath

import numpy as np
from PIL import ExifTags, Image

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it also logs what it raises, into the progress bar

# told by content; TGA comes last, as it has no magic number and its check takes other files for TGA.
# None of these runs another program, as EPS does.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "TGA")
HEAD_BYTES = 32  # enough for every magic number

# what Pillow raises on files from the test suites of Pillow and image-rs
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_UPRIGHT = {  # EXIF orientation → what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SetAside(Exception):
    """A file is not used: `reason` is one word to count by, `detail` says more."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def could_be_image(name: str, head: bytes) -> bool:
    """Whether a file is worth opening, by its first HEAD_BYTES bytes; by its name only where a format has no mark."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in _suffixes("TGA") or any(accept(head) is True for accept in _accepts())


def claims_to_be_image(name: str) -> bool:
    """Whether a file's name ends like one of the formats: if it is none, then it is broken."""
    return PurePosixPath(name).suffix.lower() in _suffixes(*FORMATS)


@cache
def _accepts() -> tuple:
    Image.init()
    return tuple(Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN and Image.OPEN[name][1] is not None)


@cache
def _suffixes(*formats: str) -> frozenset[str]:
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Decode the first frame, upright, as RGB with transparency on white; raises SetAside with the reason.

    The size is looked at before any pixel is decoded. What ends early is refused, not filled with gray.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise SetAside("too_many_pixels", f"{image.width}×{image.height} is over {max_pixels} pixels")
                image.load()
                return to_rgb(upright(image))
        except _BOMB as error:
            raise SetAside("too_many_pixels", str(error)) from error
        except _UNREADABLE as error:
            raise SetAside("unreadable", f"{type(error).__name__}: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; where EXIF cannot be read, the picture is taken as it is."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _UNREADABLE:
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow → RGB, transparency composited on white, 16 bits and floats brought to 8."""
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info.clear()  # an embedded profile or comment would be written again with the new picture
    return image


def _to_8_bits(gray_HW: np.ndarray) -> np.ndarray:
    if gray_HW.dtype.kind == "u":  # 16 bits
        return (gray_HW >> 8).astype(np.uint8)
    floats_HW = np.nan_to_num(gray_HW.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = floats_HW.max(initial=0.0)
    # neither format says where white is: take the smallest usual range that holds all values
    ranges = (1.0, 255.0, 65535.0) if gray_HW.dtype.kind == "f" else (255.0, 65535.0)
    white = next((top for top in ranges if peak <= top), peak)
    return (floats_HW.clip(0, white) * (255.0 / white)).round().astype(np.uint8)
