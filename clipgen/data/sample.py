"""The wire format of one sample: what its members in a tar are called, and how their bytes are made and read.

Members are images, JSON, plain text and .npy arrays without objects. Nothing here can run code: no pickle, and
none of webdataset's decoders.

N captions, E embedding size, H W pixels, h w token grid
"""

import io
import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from clipgen.data.size import IMAGE_EXTENSIONS
from clipgen.errors import UserError

Sample = dict[str, Any]  # "__key__" → str, member extension → bytes

_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow's names for them


def sample_key(number: int) -> str:
    """The key of sample `number`: nine digits, as a dot in a file's own name would split a WebDataset key."""
    assert 0 <= number < 10**9, number
    return f"{number:09d}"


def image_sample(
    key: str, data: bytes, extension: str, meta: dict[str, Any], captions: Sequence[str] | None = None
) -> Sample:
    """The members of an image sample: `data` is the encoded picture, `extension` says how (png, jpg or webp)."""
    assert extension in IMAGE_EXTENSIONS, extension
    return {"__key__": key, extension: data, "json": encode_json(meta)} | _captions(captions)


def latent_sample(
    key: str,
    tokens: np.ndarray,
    clip: np.ndarray,
    meta: dict[str, Any],
    captions: Sequence[str] | None = None,
    text_clip: np.ndarray | None = None,
    large: np.ndarray | None = None,
) -> Sample:
    """The members of a latent sample: `tokens` uint16 (crops, h, w), `clip` (crops, E), `text_clip` (N, E).

    `large` uint16 (crops, 2·h, 2·w) are the tokens at twice the size.
    """
    assert tokens.ndim == 3 and tokens.dtype == np.uint16, (tokens.shape, tokens.dtype)
    assert clip.ndim == 2 and len(clip) == len(tokens), (clip.shape, tokens.shape)
    members = {
        "__key__": key,
        "tokens.npy": encode_npy(tokens),
        "clip.npy": encode_npy(clip.astype(np.float16)),
        "json": encode_json(meta),
    } | _captions(captions)
    if large is not None:
        assert large.shape == (len(tokens), 2 * tokens.shape[1], 2 * tokens.shape[2]), (large.shape, tokens.shape)
        members["large.npy"] = encode_npy(large.astype(np.uint16))
    if text_clip is not None:
        assert captions is not None and text_clip.shape == (len(captions), clip.shape[1]), text_clip.shape
        members["text_clip.npy"] = encode_npy(text_clip.astype(np.float16))
    return members


def _captions(captions: Sequence[str] | None) -> Sample:
    if not captions:
        return {}
    return {"txt": "\n".join(" ".join(caption.split()) for caption in captions).encode()}


def encode_json(obj: Any) -> bytes:
    """Canonical ASCII JSON: the same value gives the same bytes, and file names that are no valid UTF-8 survive."""
    return json.dumps(obj, sort_keys=True, allow_nan=False).encode()


def encode_npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def decode_npy(data: bytes, where: str = "array") -> np.ndarray:
    """Read a .npy member; `where` names it in the UserError that broken bytes or Python objects in it raise."""
    try:
        start = 10 + int.from_bytes(data[8:10], "little")
        shape, dtype = _npy_header(data[:start])
        return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()  # a view could not be written to
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise UserError(f"{where} is not a plain .npy array ({error}); make this shard again") from error


@lru_cache(maxsize=64)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    # all samples of a set have the same few headers, and np.load takes 20 times as long, most of it for them
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not of version 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran_order or dtype.hasobject:
        raise ValueError("in Fortran's order, or with Python objects in it")
    return shape, dtype


def decode_image(data: bytes, where: str = "image") -> np.ndarray:
    """Decode a png, jpg or webp member → uint8 (H, W, 3); `where` names it in the UserError that broken bytes raise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS) as image:
                return np.array(image.convert("RGB"))  # a copy, as Pillow's own buffer is read-only
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{where} is not a readable image ({error}); make this shard again") from error


def image_bytes(sample: Sample, where: str = "sample") -> bytes:
    """The encoded picture of an image sample, whichever of the three formats it is in."""
    for extension in IMAGE_EXTENSIONS:
        if extension in sample:
            return sample[extension]
    raise UserError(f"{where} has no image, only {_members(sample)}; point shards= at a folder made by `clipgen prep`")


def member(sample: Sample, extension: str, where: str = "sample") -> bytes:
    """One member's bytes; a UserError says which members there are when it is missing."""
    if extension not in sample:
        raise UserError(f"{where} has no {extension}, only {_members(sample)}; make this shard again")
    return sample[extension]


def decode_captions(sample: Sample) -> list[str]:
    """The captions of a sample, none being an empty list."""
    return sample["txt"].decode().split("\n") if "txt" in sample else []


def _members(sample: Sample) -> str:
    return ", ".join(sorted(name for name in sample if not name.startswith("__"))) or "nothing"
