"""How images are made into samples: the one home of these values; `prep:` of every config has them too."""

from dataclasses import dataclass, field
from typing import Any

from clipgen.data.size import IMAGE_EXTENSIONS, sides
from clipgen.errors import UserError

DECODING = {"exact": None, "close": 1.5, "fast": 1.0}  # how many times the size must be left of a JPEG
FORMATS = {  # as a user calls it → as Pillow does; told by content
    "jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "ppm": "PPM", "ico": "ICO",
    "avif": "AVIF", "heif": "HEIF", "tga": "TGA",
}  # fmt: skip
MOST_PIXELS = 89_478_485  # Pillow takes more for an attack


@dataclass
class PackSettings:
    """How images are made into samples.

    `formats` are those of the files that are taken; others are set aside. `size` is the side of the centre square, or
    [height, width] of the centre, or with `crop=False` the length of the shorter side; None keeps the size. Files with
    a side under `min_size`, over `max_pixels` in all or longer than `max_aspect` times their shorter side are set
    aside; when more than `max_bad_fraction` of the image files are, packing stops. `background` shows through
    transparent pixels. `decoding` other than exact lets libjpeg skip detail that resizing would throw away: JPEGs are
    decoded at a half, a quarter or an eighth where that leaves 1.5 times the size (close) or the size (fast). A shard
    takes files until it has `samples_per_shard` of them, or `source_bytes_per_shard` of what they were read from:
    shards are parted before anything is converted, so that any number of processes makes the same. `val_fraction` is
    that of the samples kept for validation. `deduplicate` keeps copies out; `near_duplicates` also what differs from
    an earlier picture in at most so many of the 64 bits of its perceptual hash. `clip_words` keeps only pictures whose
    CLIP score with one of these texts reaches `clip_score`. `caption` is that of a picture without one of its own; with
    {} in it, it is what every own caption becomes.
    """

    formats: list[str] = field(default_factory=lambda: list(FORMATS))
    size: Any = None
    crop: bool = True
    format: str = "png"
    quality: int = 95
    background: str = "white"
    decoding: str = "exact"
    min_size: int = 16
    max_pixels: int = 50_000_000
    max_aspect: float | None = None
    samples_per_shard: int = 2000
    source_bytes_per_shard: int | None = None
    val_fraction: float = 0.02
    max_bad_fraction: float = 0.5
    deduplicate: bool = True
    near_duplicates: int | None = None
    clip_words: list[str] = field(default_factory=list)
    clip_score: float = 0.2
    caption: str | None = None

    def __post_init__(self) -> None:
        if not self.formats or (unknown := [name for name in self.formats if name not in FORMATS]):
            what = f"{unknown[0]!r} is unknown" if self.formats else "is empty"
            raise UserError(f"prep.formats: {what}; take some of {', '.join(FORMATS)}")
        self.formats = [name for name in FORMATS if name in self.formats]  # in which order they are typed is the same
        for name, value, known in (("format", self.format, IMAGE_EXTENSIONS), ("decoding", self.decoding, DECODING)):
            if value not in known:
                raise UserError(f"prep.{name} {value!r} is unknown; take one of {', '.join(known)}")
        for name, value, least, most in (
            *(("size", side, 1, 16_384) for side in (() if self.size is None else sides(self.size))),
            ("quality", self.quality, 1, 100),
            ("min_size", self.min_size, 1, 16_384),
            ("max_pixels", self.max_pixels, 1, MOST_PIXELS),
            ("max_aspect", self.max_aspect, 1, 100_000),
            ("samples_per_shard", self.samples_per_shard, 1, 1_000_000),
            ("source_bytes_per_shard", self.source_bytes_per_shard, 1, 1 << 50),
            ("val_fraction", self.val_fraction, 0, 0.9),
            ("max_bad_fraction", self.max_bad_fraction, 0, 1),
            ("near_duplicates", self.near_duplicates, 0, 15),
            ("clip_score", self.clip_score, -1, 1),
        ):
            if value is not None and not least <= value <= most:
                raise UserError(f"prep.{name} is {value}, but must be between {least} and {most}")
        if self.caption is not None and not self.caption.strip():
            raise UserError("prep.caption is empty; say what all the pictures have in common, or leave it out")
        if not self.crop and not isinstance(self.size, int | None):
            raise UserError(f"prep.size={self.size} is the size of a crop; take prep.crop=true, or one number")
        if self.background != "white":
            check_colour(self.background)

    def captions(self, own: list[str]) -> list[str]:
        """What a picture with these `own` captions is said to show."""
        if self.caption is None:
            return own
        if "{}" in self.caption:
            return [self.caption.replace("{}", text) for text in own]
        return own or [self.caption]


def check_colour(name: str) -> None:
    """UserError for what Pillow knows no colour by."""
    from PIL import ImageColor  # so long a way for the defaults alone

    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise UserError(f"prep.background {name!r} is no colour; take a name or one such as '#808080'") from error
