"""Pictures of any mode, profile and orientation → upright RGB, as their maker saw them."""

import hashlib
import io
import struct
import zlib
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, ImageCms

_MODES = ("RGB", "L", "CMYK", "LAB")  # what a profile can be for
UPRIGHT = {  # EXIF orientation → what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow raises on files from the test suites of Pillow and image-rs
UNREADABLE = (
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


def as_seen(image: Image.Image, background: str = "white") -> Image.Image:
    """A picture that somebody opened, as `clipgen prep` would have packed it: upright, in sRGB, on white.

    It is left as it was, and given back where nothing is to be done.
    """
    turn = UPRIGHT.get(orientation(image))
    if turn is None and image.mode == "RGB" and not {"icc_profile", "transparency"} & image.info.keys():
        return image
    return to_rgb(image.copy() if turn is None else image.transpose(turn), background)


def orientation(image: Image.Image) -> int | None:
    """What EXIF says of how the camera was held."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except UNREADABLE:  # where EXIF cannot be read, the picture is taken as it is
        return None


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """Any mode of Pillow → sRGB, transparency composited on `background`, 16 bits and floats brought to 8."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = to_srgb(image if image.mode == "LA" else image.convert("RGBA"), profile).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    else:
        image = to_srgb(image.convert("RGB") if image.mode == "P" else image, profile)
    if image.mode != "RGB":  # converting would copy
        image = image.convert("RGB")
    image.info = {}  # an embedded profile or comment would be written again with the new picture
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


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture (RGB, L, CMYK, or RGBA) in sRGB; as it is where its profile is sRGB already or makes no sense."""
    if not profile:
        return image
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert({"RGBA": "RGB", "LA": "L"}[image.mode]) if alpha else image
    change = _transform(_Profile(profile), colours.mode) if colours.mode in _MODES else None
    if change is None:
        return image
    colours = change.apply(colours)
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


class _Profile:
    """The bytes of a profile, told apart by their hash."""

    def __init__(self, data: bytes):
        self.data, self.digest = data, hashlib.sha256(data).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Profile) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@lru_cache(maxsize=32)  # the same camera's profile comes again and again
def _transform(profile: _Profile, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile.data))
        if mode == "RGB" and "srgb" in (ImageCms.getProfileDescription(source) or "").lower():
            return None
        return ImageCms.buildTransform(source, _srgb(), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None  # broken, or for another kind of picture than it is in


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
