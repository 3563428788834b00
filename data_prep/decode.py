"""Bytes of a picture from anywhere → an RGB picture as a person sees it, or the reason why not."""

import io
import logging
import re
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

from PIL import Image

from clipgen.data.colour import UNREADABLE, UPRIGHT, orientation, to_rgb
from data_prep.settings import FORMATS

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it also logs what it raises, into the progress bar

# TGA comes last, as it has no magic number and its check takes other files for TGA.
# None of these runs another program, as EPS does.
_PILLOWS = tuple(FORMATS.values())
_NAMES = {pillows: name for name, pillows in FORMATS.items()} | {"MPO": "jpg"}  # a JPEG with more behind it
_BRANDS = {  # of a container of many formats, which nothing may be installed for
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
_INSTALL = {"HEIF": "pip install 'clipgen[heif]'", "AVIF": "pip install a Pillow that has it"}
HEAD_BYTES = 32  # enough for every magic number

_ADDRESS = re.compile(r" <_io\.BytesIO object at 0x[0-9a-f]+>")  # is another one each time
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_SIDEWAYS = (5, 6, 7, 8)


class SetAside(Exception):
    """A file is not used: `reason` is one word to count by, `detail` says more."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def could_be_image(name: str, head: bytes) -> bool:
    """Whether a file is worth opening, by its first HEAD_BYTES bytes; by its name only where a format has no mark."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in _suffixes("TGA") or any(accept(head) is True for accept in _accepts())


def not_installed(head: bytes) -> str | None:
    """What to say of a file that begins so, where only what reads its format is missing."""
    name = _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    return f"{name} cannot be read here; {_INSTALL[name]}" if name is not None and name not in formats() else None


def format_of(image: Image.Image) -> str:
    """The name in FORMATS of an opened image's format."""
    return _NAMES[image.format or ""]


def image_suffixes() -> tuple[str, ...]:
    """The suffixes of all formats, without the dot."""
    return tuple(sorted(suffix[1:] for suffix in _suffixes(*_PILLOWS)))


def claims_to_be_image(name: str) -> bool:
    """Whether a file's name ends like one of the formats: if it is none, then it is broken."""
    return PurePosixPath(name).suffix.lower() in _suffixes(*_PILLOWS)


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here; HEIF with its plugin only."""
    Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _PILLOWS if name in Image.OPEN)


@cache
def _accepts() -> tuple:
    return tuple(Image.OPEN[name][1] for name in formats() if Image.OPEN[name][1] is not None)


@cache
def _suffixes(*names: str) -> frozenset[str]:
    formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in names)


@dataclass(frozen=True)
class Picture:
    """A decoded picture in RGB, with the format and the upright (width, height) of the file it came from.

    `image` is 1 / `scale` of that size, where it was decoded so: the last pixels then stand for less than a whole one.
    """

    image: Image.Image
    format: str
    size: tuple[int, int]
    scale: int = 1


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The RGB picture alone, as `read` gives it."""
    return read(data, max_pixels).image


def read(
    data: bytes,
    max_pixels: int,
    background: str = "white",
    at_least: int | None = None,
    wanted: Collection[str] = tuple(FORMATS),
) -> Picture:
    """Decode the first frame, upright, as sRGB with transparency on `background`; raises SetAside with the reason.

    The size is looked at before any pixel is decoded. What ends early is refused, not filled with gray. `at_least`
    lets a JPEG be decoded at a half, a quarter or an eighth of its size, with no side under so many pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=formats()) as image:
                size = image.size
                if (name := format_of(image)) not in wanted:
                    raise SetAside("format", f"{name} is not among prep.formats")
                if image.width * image.height > max_pixels:
                    raise SetAside("too_many_pixels", f"{image.width}×{image.height} is over {max_pixels} pixels")
                scale = 1
                if at_least is not None and image.format in ("JPEG", "MPO"):
                    scale = _decode_smaller(image, at_least)
                image.load()
                turned_by = orientation(image)
                if turned_by in _SIDEWAYS:
                    size = size[::-1]
                turned = image.transpose(UPRIGHT[turned_by]) if turned_by in UPRIGHT else image
                return Picture(to_rgb(turned, background), image.format or "", size, scale)
        except _BOMB as error:
            raise SetAside("too_many_pixels", str(error)) from error
        except UNREADABLE as error:
            if missing := not_installed(data[:HEAD_BYTES]):  # Pillow takes some HEIF for AVIF at first
                raise SetAside("format", missing) from error
            raise SetAside("unreadable", f"{type(error).__name__}: {_ADDRESS.sub('', str(error))}") from error


def fraction(side: int, at_least: int) -> int:
    """The most of 8, 4, 2 and 1 by which a side can be divided and not be under so many pixels."""
    return next((scale for scale in (8, 4, 2) if side // scale >= at_least), 1)


def _decode_smaller(image: Image.Image, at_least: int) -> int:
    """Let libjpeg decode at a fraction, and tell which: 1 where turning would bring half pixels to the front."""
    scale = fraction(min(image.size), at_least)
    if scale == 1 or (orientation(image) in UPRIGHT and any(length % scale for length in image.size)):
        return 1
    image.draft(image.mode, (image.width // scale, image.height // scale))
    return scale
