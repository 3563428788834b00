"""Lightning's view of the data: loaders that begin at the batch where a checkpoint stopped.

Use it with `Trainer(max_epochs=1, use_distributed_sampler=False)`: one "epoch" is all the training steps.
The LightningModule counts the batches that it trained in an int attribute `batches`, as Lightning's global_step
counts optimizer steps (two a batch for a GAN).
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from clipgen.data.batches import (
    Batch,
    CaptionedBatches,
    CaptionedLatentBatches,
    ImageBatches,
    LargeLatentBatches,
    LatentBatches,
    captioned,
    read_latent,
)
from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.data.size import Size
from clipgen.data.stream import BatchSchedule, draws
from clipgen.errors import UserError
from clipgen.ranks import cores

MOST_WORKERS = 8  # of a device
Batches = ImageBatches | LatentBatches


class _Data(pl.LightningDataModule):
    """What images and latents share: exact resume, batches as a function of their number."""

    kind: str

    def __init__(
        self, folder: str | Path, batch_size: int, steps: int, seed: int, num_workers: int | None, val_samples: int
    ):
        super().__init__()
        self.folder = Path(folder)
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.num_workers, self.val_samples = num_workers, val_samples
        self.start = 0  # the number of batches a checkpoint had trained
        self.manifest = Manifest.load(folder, self.kind)
        self.manifest.check(folder)
        self.n_train, self.n_val = self.manifest.samples("train"), min(val_samples, self.manifest.samples("val"))
        if not self.n_train:
            raise UserError(f"{folder} has no sample to train on; make it again with a smaller val_fraction")
        self.train_batches: Batches
        self.val_batches: Batches

    @property
    def left_out(self) -> int:
        """How many samples each epoch leaves out, other ones every time, as they do not fill a batch."""
        return BatchSchedule(self.n_train, self.batch_size, self.seed).left_out

    def shards(self, split: str) -> ShardSet:
        """The samples of a split, by number."""
        return ShardSet(self.folder, split, self.manifest)

    def train_dataloader(self) -> DataLoader:
        rank, world = 0, 1
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            if 0 < self.start < self.steps:
                _reopen(self.trainer.fit_loop)
        schedule = BatchSchedule(
            self.n_train, self.batch_size, self.seed, self.start, self.steps, rank, world, self._windows()
        )
        workers = self._workers(self.train_batches)
        return self._loader(_TrainingBatches(self.train_batches, schedule), workers, _Remaining(self.start, self.steps))

    def _windows(self) -> list[Shard]:
        """The shards that the samples to train on lie in."""
        return self.manifest.of_split("train")

    def val_dataloader(self) -> DataLoader | list:
        """All validation samples, on every rank: their mean is then exact, and no rank waits for another."""
        if not self.n_val:
            return []
        workers = self._workers(self.val_batches)
        return self._loader(_PlainBatches(self.val_batches, self._held()), workers, persistent=True)

    def _workers(self, batches: Batches) -> int:
        """As many as were given; else none for what memory holds, and for what is decoded a share of the cores."""
        if self.num_workers is not None:
            return self.num_workers
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return 0 if batches.held else min(MOST_WORKERS, max(1, cores() // here))

    def _held(self) -> int:
        """How many samples training holds at once on a device, and validation may hold too."""
        if self.trainer is None:
            return self.batch_size
        parts = self.trainer.world_size * getattr(self.trainer.lightning_module, "accumulate", 1)
        return max(1, self.batch_size // parts)

    def _loader(
        self, batches: Dataset, workers: int, sampler: Sampler | None = None, persistent: bool = False
    ) -> DataLoader:
        return _Loader(
            batches,
            batch_size=None,  # a dataset of batches, not of samples
            sampler=sampler,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def state_dict(self) -> dict[str, Any]:
        return self._order() | {"batches": self.trainer.lightning_module.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        now = self._order()
        if changed := [f"{name} {state_dict[name]} → {now[name]}" for name in now if state_dict[name] != now[name]]:
            raise UserError(
                f"the checkpoint was trained with another order of the data ({', '.join(changed)}), so it cannot be "
                "continued exactly: set it back, or train into a new folder"
            )
        self.start = state_dict["batches"]

    def _order(self) -> dict[str, int]:
        return {"seed": self.seed, "batch_size": self.batch_size, "samples": self.n_train}

    def teardown(self, stage: str) -> None:
        if stage == "fit":
            self.start = 0


class ImageData(_Data):
    """Batches of pictures, {"image": uint8 (B, H, W, 3)}, from the shards that `clipgen prep` made.

    `batch_size` is that of all devices together, `steps` the number of batches of the whole training. Training crops
    are random (and mirrored, with `flip`), validation crops central; all are decoded once and held in memory where
    they take at most `memory_limit_bytes`. Raises UserError for a missing, unfinished, damaged or unfitting folder.
    """

    kind = "images"
    batches_class = ImageBatches

    def __init__(
        self,
        shards: str | Path,
        image_size: Size,
        batch_size: int,
        steps: int,
        seed: int = 0,
        flip: bool = False,
        num_workers: int | None = 0,
        memory_limit_bytes: int = 2 << 30,
        val_samples: int = 512,
    ):
        super().__init__(shards, batch_size, steps, seed, num_workers, val_samples)
        self.image_size = image_size
        self.memory_limit_bytes = memory_limit_bytes
        self.train_batches = self.batches_class(self.shards("train"), image_size, flip)
        self.val_batches = self.batches_class(self.shards("val"), image_size, limit=val_samples)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_batches.load(self.memory_limit_bytes)
        self.val_batches.load(self.memory_limit_bytes)


class CaptionedData(ImageData):
    """`ImageData` with a caption for each picture, {"image": …, "caption": list of B texts}; all must have one."""

    batches_class = CaptionedBatches

    def _held(self) -> int:
        """All, as a picture is told from the others of its batch."""
        return self.batch_size


class LatentData(_Data):
    """Batches of cached latents, {"tokens": int64 (B, h·w), "clip": float32 (B, E)}, that `clipgen encode` made.

    `grid` is (h, w), `crops` how many there are of each picture: one is drawn each time. All are held in memory where
    they take at most `memory_limit_bytes`. `made_by` says which tokenizer and which CLIP they are from. Raises
    UserError for a missing, unfinished or damaged folder.
    """

    kind = "latents"

    def __init__(
        self,
        latents: str | Path,
        batch_size: int,
        steps: int,
        seed: int = 0,
        num_workers: int | None = 0,
        val_samples: int = 512,
        memory_limit_bytes: int = 2 << 30,
    ):
        super().__init__(latents, batch_size, steps, seed, num_workers, val_samples)
        self.memory_limit_bytes = memory_limit_bytes
        self.made_by = self.manifest.made_by
        self.train_batches = LatentBatches(self.shards("train"))
        self.val_batches = LatentBatches(self.shards("val"), limit=val_samples)
        tokens, clip = read_latent(self.train_batches.shards, 0)
        self.crops, self.grid, self.embedding_size = len(tokens), tokens.shape[1:], clip.shape[1]

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_batches.load(self.memory_limit_bytes)
        self.val_batches.load(self.memory_limit_bytes)


class LargeLatentData(LatentData):
    """Cached tokens of pictures at two sizes, {"tokens": int64 (B, h, w), "large": int64 (B, 2·h, 2·w)}.

    UserError where `clipgen encode` was not asked for the large ones.
    """

    def __init__(self, latents: str | Path, *arguments, **options):
        super().__init__(latents, *arguments, **options)
        if not self.made_by.get("encode", {}).get("large"):
            raise UserError(
                f"latents={latents} have no tokens of pictures at twice the size; run `clipgen encode` with "
                "encode.large=true into another folder, from pictures of at least that size"
            )
        self.train_batches = LargeLatentBatches(self.shards("train"))
        self.val_batches = LargeLatentBatches(self.shards("val"), limit=self.val_samples)


class CaptionedLatentData(LatentData):
    """`LatentData` of the pictures that have captions, with one of them drawn each time, "caption": list of B texts.

    Only captions of the `share` of the training pictures are used, chosen by their keys; the other pictures are left
    out. With `embeddings` "clip" is the embedding of the caption. `in_share` tells how many pictures are in the share,
    `n_train` how many of them have a caption. UserError where none has.
    """

    def __init__(self, latents: str | Path, *arguments, share: float = 1.0, embeddings: bool = False, **options):
        super().__init__(latents, *arguments, **options)
        self.samples = self.n_train
        shards, held_out = self.shards("train"), self.shards("val")
        chosen, self.in_share = captioned(shards, share)
        if not len(chosen):
            if share < 1 and len(captioned(shards)[0]):
                raise UserError(
                    f"captions_share={share:g} of the {self.samples:,} images of {latents} leaves none that has a "
                    "caption; take a larger share"
                )
            raise UserError(
                f"no image of {latents} has a caption; pack the images again with captions=FILE (or sidecar: a .txt "
                "beside each) into other shards, and encode those"
            )
        of_val, _ = captioned(held_out, limit=self.n_val)
        self.n_train, self.n_val = len(chosen), len(of_val)
        self.train_batches = CaptionedLatentBatches(shards, chosen, embeddings=embeddings)
        self.val_batches = CaptionedLatentBatches(held_out, of_val, embeddings=embeddings)

    def captions(self) -> Iterator[str]:
        """Every caption that may be used in training."""
        for i in self.train_batches.chosen:
            yield from decode_captions(self.train_batches.shards[int(i)])

    def _windows(self) -> list[Shard]:
        ends = np.cumsum([shard.samples for shard in self.manifest.of_split("train")])
        counts = np.diff(np.searchsorted(self.train_batches.chosen, ends), prepend=0).tolist()
        return [replace(shard, samples=n) for shard, n in zip(self.manifest.of_split("train"), counts, strict=True)]


class _Numbered(Dataset):
    """Batch number → batch, or the UserError that it raised: `_Loader` raises it, in the process of the user."""

    batch: Callable[[int], Batch]  # of those below

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            return self.batch(number)
        except UserError as error:  # raised in a worker it would come with a long traceback, and take torch 10 s
            return error


class _TrainingBatches(_Numbered):
    """The batches of this rank. Every sample's crop is the same for any number of ranks and workers."""

    def __init__(self, batches: Batches, schedule: BatchSchedule):
        self.batches, self.schedule = batches, schedule

    def batch(self, number: int) -> Batch:
        schedule = self.schedule
        random = draws(schedule.seed, number, schedule.batch_size, self.batches.n_draws)
        return self.batches.train(schedule.rows(number), random[schedule.rank :: schedule.world])


class _PlainBatches(_Numbered):
    """All samples in order; the last batch may be smaller."""

    def __init__(self, batches: Batches, batch_size: int):
        self.batches, self.batch_size = batches, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.batch_size)

    def batch(self, number: int) -> Batch:
        first = number * self.batch_size
        return self.batches.plain(range(first, min(first + self.batch_size, len(self.batches))))


def _reopen(loop: Any) -> None:
    """Let a training that had come to its end go on, as `steps` was raised since: Lightning takes it for finished."""
    loop.epoch_loop.batch_progress.is_last_batch = False
    for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
        if progress.processed == progress.started:
            progress.processed -= 1
        progress.completed = min(progress.completed, progress.processed)
    loop.restarting = True


class _Remaining(Sampler[int]):
    """The numbers of the batches still to train, under the length of the whole training.

    On resume Lightning adds the batches of the checkpoint to those it fetched and compares with the length of the
    loader; told the length of the remainder it would stop early.
    """

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop


class _Loader(DataLoader):
    """A loader that Lightning takes for resumable, which it is: its place is in the state of the data module."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass
