"""The crops of the pictures of image shards, in order, decoded ahead in threads while networks work on those before.

N pictures of a batch, C crops of a picture (a flip counts as one), H W pixels of a crop
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import Sample, decode_image, image_bytes
from clipgen.data.shards import TarIndex
from clipgen.data.size import Size, fits, sides
from clipgen.data.transforms import center_crop_resize
from clipgen.errors import UserError

CROPS = (1, 2, 10)  # the centre; it and its mirror image; LlamaGen's ten
TEN_CROP_RANGE = 1.1  # LlamaGen (arXiv 2406.06525) cuts its ten from a square this much larger than a crop

_AHEAD = 2  # batches that are decoded while the networks work
_PART = 32  # pictures that a thread decodes at a time


class CropBatch(NamedTuple):
    """Crops of neighbouring pictures of one shard, and those members of them that a latent takes over.

    `large_NCHW3` are the same crops at twice the size, where they are wanted.
    """

    shard: Shard
    samples: list[Sample]  # key, json and captions
    crops_NCHW3: np.ndarray
    large_NCHW3: np.ndarray | None = None


def crops_of(image_HWC: np.ndarray, size: Size, crops: int) -> np.ndarray:
    """1: the centre at `size`; 2: that and its mirror image; 10: centre and corners, then their mirror images.

    uint8 (any, any, 3) → (C, H, W, 3). The first is central; ten are cut from a centre of 1.1 × `size`, as the five of
    one would otherwise be the same.
    """
    assert crops in CROPS, crops
    height, width = sides(size)
    larger = tuple(int(TEN_CROP_RANGE * side) for side in (height, width)) if crops == 10 else (height, width)
    centre_HWC = np.asarray(center_crop_resize(Image.fromarray(image_HWC), larger))
    down, right = larger[0] - height, larger[1] - width
    corners = [(0, 0), (0, right), (down, 0), (down, right)] if crops == 10 else []
    places = [(down // 2, right // 2), *corners]
    plain = [centre_HWC[top : top + height, left : left + width] for top, left in places]
    return np.stack(plain if crops == 1 else plain + [crop[:, ::-1] for crop in plain])


def doubled(size: Size) -> Size:
    """A size with both sides twice as long."""
    return 2 * size if isinstance(size, int) else [2 * side for side in size]


def read_crops(
    folder: Path, shards: Sequence[Shard], size: Size, crops: int, batch_size: int, workers: int, large: bool = False
) -> Iterator[CropBatch]:
    """All pictures of some image shards in batches of at most `batch_size` crops, none across two shards.

    With `large` they are cut at twice the size and then halved, so that both show the same. Decoding runs ahead in
    `workers` threads, over the borders of shards too. A shard whose bytes are not those of its manifest, a picture that
    cannot be read and one smaller than `size` (or twice that) raise UserError.
    """
    step = max(1, batch_size // crops)
    pending: deque[tuple[CropBatch, list[Future]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for shard in shards:
            index = pool.submit(_index, folder, shard)  # started before the parts that wait for it
            for first in range(0, shard.samples, step):
                rows = range(first, min(first + step, shard.samples))
                small, *more = (
                    np.empty((len(rows), crops, *sides(each), 3), np.uint8)
                    for each in ([size, doubled(size)] if large else [size])
                )
                batch = CropBatch(shard, [], small, *more)
                parts = [
                    pool.submit(_decode, index, *(of_rows[i : i + _PART] for of_rows in (rows, small, *more)))
                    for i in range(0, len(rows), _PART)
                ]
                pending.append((batch, parts))
                if len(pending) > _AHEAD:
                    yield _whole(*pending.popleft())
        while pending:
            yield _whole(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _index(folder: Path, shard: Shard) -> TarIndex:
    Manifest("images", [shard]).check(folder, deep=True)
    return TarIndex(folder / shard.name, shard.samples)


def _decode(index: Future, rows: range, crops_NCHW3: np.ndarray, large_NCHW3: np.ndarray | None = None) -> list[Sample]:
    """Put the crops of some rows of a shard where they belong, and return the other members."""
    tar: TarIndex = index.result()
    largest_NCHW3 = crops_NCHW3 if large_NCHW3 is None else large_NCHW3
    crops, size = crops_NCHW3.shape[1], largest_NCHW3.shape[2:4]
    samples = []
    for i, row in enumerate(rows):
        where, sample = f"{tar.path}: sample {tar.key(row)}", tar[row]
        image_HWC = decode_image(image_bytes(sample, where), where)
        if not fits(image_HWC.shape, size):
            wanted = size[0] if size[0] == size[1] else list(size)
            needs = "tokenizer.image_size" if large_NCHW3 is None else "twice tokenizer.image_size (encode.large=true),"
            raise UserError(f"{where} is smaller than {needs} {wanted}; pack again with prep.size={wanted}")
        largest_NCHW3[i] = crops_of(image_HWC, size, crops)
        if large_NCHW3 is not None:
            half = crops_NCHW3.shape[2:4]
            crops_NCHW3[i] = [np.asarray(center_crop_resize(Image.fromarray(each), half)) for each in large_NCHW3[i]]
        samples.append({name: sample[name] for name in ("__key__", "json", "txt") if name in sample})
    return samples


def _whole(batch: CropBatch, parts: list[Future]) -> CropBatch:
    for part in parts:
        batch.samples.extend(part.result())
    return batch
