"""The samples of a split as whole batches of tensors, by row numbers: from memory where they fit, else from the shards.

B batch, H W pixels of a crop, L = h·w image tokens, E embedding size, n samples, C crops of a picture
"""

import hashlib
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clipgen.data.sample import decode_captions, decode_image, decode_npy, image_bytes, member
from clipgen.data.shards import ShardSet
from clipgen.data.size import Size, fits
from clipgen.data.transforms import center_crop, random_crop
from clipgen.errors import UserError

_SLOW = 5_000  # samples from which on loading shows a progress bar

Batch = dict[str, Tensor]


class ImageBatches:
    """Crops of the pictures of a split, {"image": uint8 (B, H, W, 3)}; at most `limit` samples when given."""

    n_draws = 3  # top, left, mirror

    def __init__(self, shards: ShardSet, image_size: Size, flip: bool = False, limit: int | None = None):
        self.shards, self.image_size, self.flip = shards, image_size, flip
        self.n = len(shards) if limit is None else min(limit, len(shards))
        self._pixels: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return self.n

    def load(self, memory_limit_bytes: int) -> None:
        """Decode everything once and hold it, unless it takes more than the limit; then each use decodes."""
        if self._pixels is not None or 3 * self._n_pixels() > memory_limit_bytes:
            return
        self._pixels = [self._decode(i) for i in _progress(self.n, "decoding images")]

    @property
    def held(self) -> bool:
        """Whether nothing is decoded any more."""
        return self._pixels is not None

    def _n_pixels(self) -> float:
        everything = self.shards.manifest.facts.get("pixels", {}).get(self.shards.split)
        return float("inf") if everything is None else everything * self.n / max(1, len(self.shards))

    def train(self, rows: Sequence[int], draws_B3: np.ndarray) -> Batch:
        """Random crops, placed and mirrored by `draws_B3`, numbers in [0, 1)."""
        return {"image": torch.from_numpy(random_crop(self._take(rows), self.image_size, draws_B3, self.flip))}

    def plain(self, rows: Sequence[int]) -> Batch:
        """Centre crops."""
        return {"image": torch.from_numpy(np.stack([center_crop(im, self.image_size) for im in self._take(rows)]))}

    def _take(self, rows: Sequence[int]) -> list[np.ndarray]:
        return [self._pixels[i] if self._pixels is not None else self._decode(i) for i in rows]

    def _decode(self, i: int) -> np.ndarray:
        where, sample = self.shards.where(i), self.shards[i]
        image_HWC = decode_image(image_bytes(sample, where), where)
        height, width = image_HWC.shape[:2]
        if not fits(image_HWC.shape, self.image_size):
            raise UserError(
                f"{where} is {width}×{height} pixels, smaller than image_size {self.image_size}; "
                f"pack again with size={self.image_size}, or train with image_size={min(height, width)}"
            )
        return image_HWC


class CaptionedBatches(ImageBatches):
    """Crops with a caption each, {"image": uint8 (B, H, W, 3), "caption": list of B texts}."""

    n_draws = 4  # the crop's three, which caption

    def load(self, memory_limit_bytes: int) -> None:
        super().load(memory_limit_bytes)
        self._captions = [self._captions_of(i) for i in range(self.n)]

    def train(self, rows: Sequence[int], draws_B4: np.ndarray) -> Batch:
        texts = [self._captions[i] for i in rows]
        chosen = [own[int(draw * len(own))] for own, draw in zip(texts, draws_B4[:, 3], strict=True)]
        return super().train(rows, draws_B4[:, :3]) | {"caption": chosen}

    def plain(self, rows: Sequence[int]) -> Batch:
        return super().plain(rows) | {"caption": [self._captions[i][0] for i in rows]}

    def _captions_of(self, i: int) -> list[str]:
        if not (captions := decode_captions(self.shards[i])):
            raise UserError(
                f"{self.shards.where(i)} has no caption; a CLIP is trained on captioned images: run `clipgen prep` "
                "with captions=FILE into another folder"
            )
        return captions


class LatentBatches:
    """Cached tokens and embeddings of a split: {"tokens": int64 (B, L), "clip": float32 (B, E)}.

    `chosen` are the numbers of the samples that are to be used, None being all of them.
    """

    n_draws = 1  # which crop

    def __init__(self, shards: ShardSet, limit: int | None = None, chosen: np.ndarray | None = None):
        self.shards, self.chosen = shards, chosen
        n = len(shards) if chosen is None else len(chosen)
        self.n = n if limit is None else min(limit, n)
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # (C, h, w), (C, E)
        self._held: tuple[np.ndarray, np.ndarray] | None = None  # (n, C, L), (n, C, E)

    def __len__(self) -> int:
        return self.n

    def load(self, memory_limit_bytes: int) -> None:
        """Read everything once and hold it, unless it takes more than the limit; then each use reads its shard."""
        if not self.n or self._shapes is not None:
            return
        tokens_CL, clip_CE = self._read(0)
        if self.n * (tokens_CL.nbytes + clip_CE.nbytes) > memory_limit_bytes:
            return
        held = (np.empty((self.n, *tokens_CL.shape), np.uint16), np.empty((self.n, *clip_CE.shape), np.float16))
        for i in _progress(self.n, "reading latents"):
            held[0][i], held[1][i] = self._read(i)
        self._held = held

    @property
    def held(self) -> bool:
        """Whether no shard is read any more."""
        return self._held is not None

    def train(self, rows: Sequence[int], draws_B1: np.ndarray) -> Batch:
        """One crop of each picture, chosen by `draws_B1`, numbers in [0, 1)."""
        return self._take(rows, draws_B1[:, 0])

    def plain(self, rows: Sequence[int]) -> Batch:
        """The first crop of each picture."""
        return self._take(rows, np.zeros(len(rows)))

    def _take(self, rows: Sequence[int], draws_B: np.ndarray) -> Batch:
        if self._held is not None:
            crops_B = (draws_B * self._held[0].shape[1]).astype(np.int64)
            tokens_BL, clip_BE = (array[rows, crops_B] for array in self._held)
        else:
            tokens_BCL, clip_BCE = (np.stack(arrays) for arrays in zip(*map(self._read, rows), strict=True))
            places_B, crops_B = np.arange(len(rows)), (draws_B * tokens_BCL.shape[1]).astype(np.int64)
            tokens_BL, clip_BE = tokens_BCL[places_B, crops_B], clip_BCE[places_B, crops_B]
        return {
            "tokens": torch.from_numpy(tokens_BL.astype(np.int64)),
            "clip": torch.from_numpy(clip_BE.astype(np.float32)),
        }

    def _read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (C, L) and embeddings (C, E); UserError where samples differ in crops, tokens or dimensions."""
        i = self._number(i)
        tokens_Chw, clip_CE = read_latent(self.shards, i)
        self._shapes = self._shapes or (tokens_Chw.shape, clip_CE.shape)
        if (tokens_Chw.shape, clip_CE.shape) != self._shapes:
            raise UserError(
                f"{self.shards.where(i)} has tokens {tokens_Chw.shape} and embeddings {clip_CE.shape}, unlike the "
                "first sample; run `clipgen encode` again for the whole folder"
            )
        return tokens_Chw.reshape(len(tokens_Chw), -1), clip_CE

    def _number(self, i: int) -> int:
        return i if self.chosen is None else int(self.chosen[i])


class CaptionedLatentBatches(LatentBatches):
    """Cached latents with one caption of each picture, {"tokens", "clip", "caption": list of B texts}.

    With `embeddings` a caption comes as CLIP knows it: "clip" is its embedding, and not that of the picture.
    """

    n_draws = 2  # which crop, which caption

    def __init__(self, shards: ShardSet, chosen: np.ndarray, limit: int | None = None, embeddings: bool = False):
        super().__init__(shards, limit, chosen)
        self.embeddings = embeddings
        self._texts: list[list[str] | np.ndarray] | None = None

    def load(self, memory_limit_bytes: int) -> None:
        super().load(memory_limit_bytes)
        if self._held is not None and self._texts is None:  # captions are small beside that
            self._texts = [self._texts_of(i) for i in range(self.n)]

    def train(self, rows: Sequence[int], draws_B2: np.ndarray) -> Batch:
        """A crop and a caption of each picture, chosen by `draws_B2`, numbers in [0, 1)."""
        return self._with_text(super().train(rows, draws_B2[:, :1]), rows, draws_B2[:, 1])

    def plain(self, rows: Sequence[int]) -> Batch:
        """The first of both."""
        return self._with_text(super().plain(rows), rows, np.zeros(len(rows)))

    def _with_text(self, batch: Batch, rows: Sequence[int], draws_B: np.ndarray) -> Batch:
        every = [self._texts[i] if self._texts is not None else self._texts_of(i) for i in rows]
        chosen = [own[int(draw * len(own))] for own, draw in zip(every, draws_B, strict=True)]
        if self.embeddings:
            return batch | {"clip": torch.from_numpy(np.stack(chosen).astype(np.float32))}
        return batch | {"caption": chosen}

    def _texts_of(self, i: int) -> list[str] | np.ndarray:
        i = self._number(i)
        sample = self.shards[i]
        if not self.embeddings:
            return decode_captions(sample)
        where = self.shards.where(i)
        return decode_npy(member(sample, "text_clip.npy", where), f"{where}, text_clip.npy")


class LargeLatentBatches(LatentBatches):
    """Cached tokens at two sizes, {"tokens": int64 (B, h, w), "large": int64 (B, 2·h, 2·w)}."""

    def __init__(self, shards: ShardSet, limit: int | None = None):
        super().__init__(shards, limit)
        self._large: np.ndarray | None = None  # (n, C, 2·h, 2·w)

    def load(self, memory_limit_bytes: int) -> None:
        super().load(memory_limit_bytes)
        if self._held is None or self._large is not None or 5 * self._held[0].nbytes > memory_limit_bytes:
            return
        first_CHW = self._large_of(0)
        self._large = np.empty((self.n, *first_CHW.shape), np.uint16)
        for i in _progress(self.n, "reading latents"):
            self._large[i] = self._large_of(i)

    def _take(self, rows: Sequence[int], draws_B: np.ndarray) -> Batch:
        batch = super()._take(rows, draws_B)
        crops, h, w = self._shapes[0]
        crops_B = (draws_B * crops).astype(np.int64)
        if self._large is not None:
            large_BHW = self._large[rows, crops_B]
        else:
            large_BHW = np.stack([self._large_of(i)[crop] for i, crop in zip(rows, crops_B, strict=True)])
        large_BHW = torch.from_numpy(large_BHW.astype(np.int64))
        return {"tokens": batch["tokens"].view(-1, h, w), "large": large_BHW}

    def _large_of(self, i: int) -> np.ndarray:
        where = self.shards.where(i)
        large_CHW = decode_npy(member(self.shards[i], "large.npy", where), f"{where}, large.npy")
        crops, h, w = self._shapes[0]
        if (large_CHW.dtype, large_CHW.shape) != (np.uint16, (crops, 2 * h, 2 * w)):
            raise UserError(
                f"{where} has large tokens {large_CHW.dtype}{large_CHW.shape}, not twice its tokens {crops, h, w}; "
                "run `clipgen encode` again"
            )
        return large_CHW


def captioned(shards: ShardSet, share: float = 1.0, limit: int | None = None) -> tuple[np.ndarray, int]:
    """(Numbers of the samples that have a caption and lie in the `share`, how many lie in it); of the first `limit`.

    A share is chosen by a hash of the key: what is in 1 % is in 10 % too.
    """
    n = len(shards) if limit is None else min(limit, len(shards))
    within = [i for i in _progress(n, "looking for captions") if in_share(shards.key(i), share)]
    return np.array([i for i in within if decode_captions(shards[i])], np.int64), len(within)


def in_share(key: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * 2**64


def read_latent(shards: ShardSet, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens uint16 (C, h, w) and embeddings float16 (C, E) of sample `i`; UserError when they are something else."""
    where, sample = shards.where(i), shards[i]
    tokens = decode_npy(member(sample, "tokens.npy", where), f"{where}, tokens.npy")
    clip = decode_npy(member(sample, "clip.npy", where), f"{where}, clip.npy")
    if tokens.dtype != np.uint16 or tokens.ndim != 3 or clip.dtype != np.float16 or clip.ndim != 2 or not len(clip):
        raise UserError(
            f"{where} has tokens {tokens.dtype}{tokens.shape} and embeddings {clip.dtype}{clip.shape}, "
            "not uint16 (crops, h, w) and float16 (crops, E); run `clipgen encode` again"
        )
    if len(tokens) != len(clip):
        raise UserError(f"{where} has {len(tokens)} crops of tokens but {len(clip)} embeddings; encode it again")
    return tokens, clip


def _progress(n: int, what: str) -> tqdm:
    return tqdm(range(n), desc=what, disable=n < _SLOW, file=sys.stderr, leave=False)
