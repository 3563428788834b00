"""Which samples a training step sees: a pure function of (seed, batch number), so that resuming is arithmetic.

n samples, S shards, B global batch size, K random numbers
"""

from collections.abc import Iterator, Sequence

import numpy as np

from clipgen.data.manifest import Shard
from clipgen.errors import UserError

WINDOW_BYTES = 4 << 30  # of shards that are shuffled as one: what a machine's page cache can be trusted to hold

_ORDER, _DRAWS, _SHARDS = 0, 1, 2  # streams of random numbers that must not meet


def _bits(seed: int, stream: int, number: int, n: int) -> np.ndarray:
    # raw Philox words, as NumPy promises these for ever and `permutation` only for a version
    return np.random.Philox(np.random.SeedSequence([seed % 2**64, stream, number])).random_raw(n)


def order(seed: int, epoch: int, n: int, shards: Sequence[Shard] = (), window_bytes: int = WINDOW_BYTES) -> np.ndarray:
    """The order of n samples in an epoch: a permutation, int64 (n,).

    `shards`, which hold the samples in turn, are taken in windows of about `window_bytes`, the shards of a window
    being others in each epoch, and all samples of a window are shuffled together. So a set that is larger than memory
    is read a few shards at a time, and one of a single window in an order over all of it.
    """
    words = _bits(seed, _ORDER, epoch, n)
    if sum(shard.bytes for shard in shards) <= window_bytes:
        return np.argsort(words, kind="stable")
    turn_S = np.argsort(_bits(seed, _SHARDS, epoch, len(shards)), kind="stable")
    bytes_S = np.array([shard.bytes for shard in shards])
    window_S = np.empty(len(shards), np.int64)
    window_S[turn_S] = (np.cumsum(bytes_S[turn_S]) - bytes_S[turn_S]) // window_bytes  # the one a shard begins in
    window_n = np.repeat(window_S, [shard.samples for shard in shards])
    return np.lexsort((words, window_n))


def draws(seed: int, batch: int, batch_size: int, k: int) -> np.ndarray:
    """Random numbers for the augmentation of a global batch, uniform in [0, 1): float64 (B, K)."""
    words = _bits(seed, _DRAWS, batch, batch_size * k)
    return ((words >> np.uint64(11)) * 2.0**-53).reshape(batch_size, k)


class BatchSchedule:
    """The row numbers of one rank for the global batches start … stop - 1; a `batch_sampler` for a DataLoader.

    Batches are cut from each epoch's order; the remainder that does not fill a batch is left out of that epoch, and is
    another one in each. Where n < B the orders of successive epochs are strung together instead, so that a small
    folder trains too. A rank takes every `world`-th sample, so the global batch is the same for any number of ranks,
    and all ranks have equally many. `shards` and `window_bytes` are those of `order`.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        stop: int = 0,
        rank: int = 0,
        world: int = 1,
        shards: Sequence[Shard] = (),
        window_bytes: int = WINDOW_BYTES,
    ):
        if n < 1:
            raise UserError("there is no training sample; pack a folder that has images first")
        if n < world:
            raise UserError(
                f"{n} training sample{'s' * (n > 1)} cannot be shared by {world} devices; take trainer.devices={n}, "
                "or pack more images"
            )
        if batch_size < 1 or batch_size % world:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world} devices: it is that of all devices together, "
                f"take a multiple of {world}"
            )
        assert 0 <= rank < world, (rank, world)
        assert not shards or sum(shard.samples for shard in shards) == n
        self.shards, self.window_bytes = shards, window_bytes
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.start, self.stop = start, stop
        self.rank, self.world = rank, world
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.start, self.stop):
            yield self.rows(batch).tolist()

    @property
    def left_out(self) -> int:
        """How many samples an epoch leaves out, as they do not fill a batch."""
        return self.n % self.batch_size if self.n >= self.batch_size else 0

    def rows(self, batch: int) -> np.ndarray:
        """The rows of this rank in global batch number `batch`, int64 (B / world,)."""
        return self.global_rows(batch)[self.rank :: self.world]

    def global_rows(self, batch: int) -> np.ndarray:
        """The rows of all ranks in global batch number `batch`, int64 (B,)."""
        if self.n >= self.batch_size:
            epoch, place = divmod(batch, self.n // self.batch_size)
            return self._epoch_order(epoch)[place * self.batch_size :][: self.batch_size]
        position, end = batch * self.batch_size, (batch + 1) * self.batch_size
        parts = []
        while position < end:
            epoch, place = divmod(position, self.n)
            parts.append(self._epoch_order(epoch)[place : place + end - position])
            position += len(parts[-1])
        return np.concatenate(parts)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = order(self.seed, epoch, self.n, self.shards, self.window_bytes)
            self._epoch = epoch
        return self._order
