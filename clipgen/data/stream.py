"""Which samples a training step sees: a pure function of (seed, batch number), so that resuming is arithmetic.

n samples, B global batch size, K random numbers
"""

from collections.abc import Iterator

import numpy as np

from clipgen.errors import UserError

_ORDER, _DRAWS = 0, 1  # streams of random numbers that must not meet


def _bits(seed: int, stream: int, number: int, n: int) -> np.ndarray:
    # raw Philox words, as NumPy promises these for ever and `permutation` only for a version
    return np.random.Philox(np.random.SeedSequence([seed % 2**64, stream, number])).random_raw(n)


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n samples in an epoch: a permutation, int64 (n,)."""
    return np.argsort(_bits(seed, _ORDER, epoch, n), kind="stable")


def draws(seed: int, batch: int, batch_size: int, k: int) -> np.ndarray:
    """Random numbers for the augmentation of a global batch, uniform in [0, 1): float64 (B, K)."""
    words = _bits(seed, _DRAWS, batch, batch_size * k)
    return ((words >> np.uint64(11)) * 2.0**-53).reshape(batch_size, k)


class BatchSchedule:
    """The row numbers of one rank for the global batches start … stop - 1; a `batch_sampler` for a DataLoader.

    Batches are cut from each epoch's order; the remainder that does not fill a batch is left out of that epoch, and is
    another one in each. Where n < B the orders of successive epochs are strung together instead, so that a small
    folder trains too. A rank takes every `world`-th sample, so the global batch is the same for any number of ranks.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, start: int = 0, stop: int = 0, rank: int = 0, world: int = 1
    ):
        if n < 1:
            raise UserError("there is no training sample; pack a folder that has images first")
        if batch_size < 1 or batch_size % world:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world} devices: it is that of all devices together, "
                f"take a multiple of {world}"
            )
        assert 0 <= rank < world, (rank, world)
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
            self._epoch, self._order = epoch, order(self.seed, epoch, self.n)
        return self._order
