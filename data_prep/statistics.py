"""Mean and covariance of the embeddings of images and of texts, which stage 2 centres its conditions by.

N embeddings, E embedding size
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipgen.checkpoint import load_weights, save_weights
from clipgen.data.atomic import sha256_file
from clipgen.data.batches import read_latent
from clipgen.data.manifest import Manifest
from clipgen.data.sample import decode_npy
from clipgen.data.shards import ShardSet
from clipgen.errors import UserError

STATISTICS = "statistics.safetensors"
OF_IMAGES = "captions of the images"  # where the texts are from, as the manifest says it
ENOUGH_CAPTIONS = 1000  # from this many on, the texts' mean is that of the images' own captions


class Moments:
    """Mean and covariance of rows that come a few at a time, in float64 sums."""

    def __init__(self) -> None:
        self.count = 0
        self.sum_E: Tensor | float = 0.0
        self.products_EE: Tensor | float = 0.0

    def add(self, rows_NE: Tensor) -> None:
        rows_NE = rows_NE.double().cpu()
        self.count += len(rows_NE)
        self.sum_E = self.sum_E + rows_NE.sum(0)
        self.products_EE = self.products_EE + rows_NE.T @ rows_NE

    def tensors(self, name: str) -> dict[str, Tensor]:
        """float32 mean (E,) and covariance (E, E) over all rows, and their number."""
        mean_E = self.sum_E / self.count
        covariance_EE = self.products_EE / self.count - torch.outer(mean_E, mean_E)
        return {
            f"{name}_mean": mean_E.float(),
            f"{name}_covariance": covariance_EE.float(),
            f"{name}_count": torch.tensor(self.count),
        }


def write_statistics(
    latents: Path, manifest: Manifest, text_NE: Tensor, texts_from: str, own_captions: bool = True
) -> dict:
    """Write them for the training samples of `latents`; the facts of it for the manifest, the sha256 among them.

    Texts are the captions of these samples where there are ENOUGH_CAPTIONS and `own_captions` may be, else `text_NE`.
    """
    image, captions = Moments(), Moments()
    for shard in manifest.of_split("train"):  # one at a time: a million embeddings would take gigabytes
        alone = ShardSet(latents, "train", Manifest("latents", [shard]))
        image.add(torch.from_numpy(np.concatenate([read_latent(alone, i)[1] for i in range(len(alone))])))
        if own_captions and (rows := list(_of_captions(alone))):
            captions.add(torch.from_numpy(np.concatenate(rows)))
    if captions.count >= ENOUGH_CAPTIONS:
        text, texts_from = captions, OF_IMAGES
    else:
        text = Moments()
        text.add(text_NE)
    save_weights(image.tensors("image") | text.tensors("text"), latents / STATISTICS)
    return {"texts": text.count, "texts_from": texts_from, "statistics": sha256_file(latents / STATISTICS)}


def _of_captions(latents: ShardSet) -> Iterator[np.ndarray]:
    for i in range(len(latents)):
        if (data := latents[i].get("text_clip.npy")) is not None:
            yield decode_npy(data, f"{latents.where(i)}, text_clip.npy")


def bank(latents: str | Path, count: int, split: str = "train") -> Tensor | None:
    """Embeddings, float16 (N, E), of up to `count` images of a split, evenly spread; None for none."""
    shards = ShardSet(latents, split)
    rows = [read_latent(shards, i)[1][0] for i in _spread(len(shards), count)]
    return torch.from_numpy(np.stack(rows)) if rows else None


def pairs(latents: str | Path, count: int, split: str) -> Tensor | None:
    """Embeddings, float32 (N, E), of the first caption of each image of `bank`, NaN without one; None where all are."""
    shards = ShardSet(latents, split)
    chosen, rows = _spread(len(shards), count), {}
    for row, i in enumerate(chosen):
        if (data := shards[i].get("text_clip.npy")) is not None:
            rows[row] = torch.from_numpy(decode_npy(data, f"{shards.where(i)}, text_clip.npy")[0]).float()
    if not rows:
        return None
    found_NE = torch.full((len(chosen), len(next(iter(rows.values())))), torch.nan)
    found_NE[list(rows)] = torch.stack(list(rows.values()))
    return found_NE


def _spread(n: int, count: int) -> list[int]:
    return np.linspace(0, n - 1, min(count, n)).round().astype(int).tolist()


def statistics_problem(latents: str | Path, manifest: Manifest) -> str | None:
    """What is wrong with the file, in a line; None when it is the one that its manifest was written with."""
    path, mend = Path(latents) / STATISTICS, "run `clipgen encode` again with replace=true, which makes just that"
    if (sha256 := manifest.facts.get("statistics")) is None:
        return None  # latents of an earlier version, or of another tool
    if not path.is_file():
        return f"{path} is missing; {mend}"
    if sha256_file(path) != sha256:
        return f"{path} is not the one that the manifest beside it was written with; {mend}"
    return None


def load_statistics(latents: str | Path) -> dict[str, Tensor]:
    """The tensors of a finished folder; UserError where the file is missing or not as the manifest says."""
    if problem := statistics_problem(latents, Manifest.load(latents, "latents")):
        raise UserError(problem)
    return load_weights(Path(latents) / STATISTICS)
