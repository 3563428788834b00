"""How large the images of a folder are, without decoding them: what the size to train at is chosen from."""

import hashlib
import heapq
import io
import os
import warnings
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from data_prep.decode import format_of, formats
from data_prep.scan import SourceFile, require_images, walk
from data_prep.settings import FORMATS

LOOKED_AT = 500


def typical_side(folder: str | Path, wanted: Collection[str] = tuple(FORMATS)) -> int:
    """The shorter side, in pixels, that nine of ten images of a random sample reach; 0 where none can be read.

    Images of other formats than those `wanted` do not count.
    """
    require_images(folder)
    root, sides = Path(folder).resolve(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = (file for file in walk(folder) if file.reason is None)
        for file in heapq.nsmallest(LOOKED_AT, files, key=_chance):
            try:
                with Image.open(io.BytesIO(file.read(root)), formats=formats()) as image:
                    if format_of(image) in wanted:
                        sides.append(min(image.size))
            except Exception:
                continue
    return sorted(sides)[len(sides) // 10] if sides else 0


def _chance(file: SourceFile) -> bytes:
    """An order that is random, but the same wherever and whenever the folder is listed."""
    return hashlib.sha256(os.fsencode(file.path)).digest()
