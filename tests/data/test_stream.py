"""The arithmetic of order and resume, for any sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgen.data.stream import BatchSchedule, draws, order
from clipgen.errors import UserError

sizes = st.integers(1, 60)
seeds = st.integers(-(2**40), 2**40)


@given(seeds, st.integers(0, 50), sizes)
def test_an_order_is_a_permutation_that_depends_on_nothing_else(seed, epoch, n):
    first = order(seed, epoch, n)
    assert sorted(first) == list(range(n))
    assert np.array_equal(first, order(seed, epoch, n))


def test_epochs_and_seeds_differ_and_stay_what_they_are():
    assert not np.array_equal(order(0, 0, 100), order(0, 1, 100))
    assert not np.array_equal(order(0, 0, 100), order(1, 0, 100))
    # written down: a NumPy or a refactoring that changes these breaks every run that is to be continued
    assert order(0, 0, 8).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
    assert draws(0, 3, 1, 2).round(6).tolist() == [[0.477656, 0.898478]]


@given(sizes, sizes, seeds)
@settings(deadline=None)
def test_an_epoch_shows_each_sample_at_most_once(n, batch_size, seed):
    if n < batch_size:
        return
    per_epoch = n // batch_size
    schedule = BatchSchedule(n, batch_size, seed, 0, 3 * per_epoch)
    batches = list(schedule)
    assert len(batches) == len(schedule) and {len(rows) for rows in batches} == {batch_size}
    for epoch in range(3):
        seen = [row for rows in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for row in rows]
        assert len(set(seen)) == len(seen) == n - schedule.left_out


@given(sizes, sizes, seeds)
@settings(deadline=None)
def test_a_folder_smaller_than_a_batch_shows_its_samples_equally_often(n, batch_size, seed):
    if n >= batch_size:
        return
    seen = np.concatenate([np.array(rows) for rows in BatchSchedule(n, batch_size, seed, 0, n)])
    assert np.bincount(seen, minlength=n).tolist() == [batch_size] * n


@given(sizes, st.integers(1, 12), seeds, st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None)
def test_resuming_is_skipping(n, batch_size, seed, start, more):
    unbroken = list(BatchSchedule(n, batch_size, seed, 0, start + more))
    assert list(BatchSchedule(n, batch_size, seed, start, start + more)) == unbroken[start:]


@given(sizes, st.integers(1, 5), st.sampled_from([1, 2, 3, 4]), seeds, st.integers(0, 30))
@settings(deadline=None)
def test_the_global_batch_is_the_same_for_any_number_of_ranks(n, per_rank, world, seed, number):
    batch_size = per_rank * 12
    alone = BatchSchedule(n, batch_size, seed).rows(number)
    shared = np.empty(batch_size, np.int64)
    for rank in range(world):
        rows = BatchSchedule(n, batch_size, seed, rank=rank, world=world).rows(number)
        assert len(rows) == batch_size // world
        shared[rank::world] = rows
    assert np.array_equal(alone, shared)


def test_what_is_left_out_changes_with_the_epoch():
    schedule = BatchSchedule(10, 4, 0, 0, 40)
    batches = list(schedule)
    left_out = [frozenset(range(10)) - {*batches[2 * e], *batches[2 * e + 1]} for e in range(20)]
    assert schedule.left_out == 2 and {len(rest) for rest in left_out} == {2}
    assert len(set(left_out)) > 3 and len(frozenset.union(*left_out)) == 10


def test_draws_are_uniform_and_differ_between_batches():
    many = draws(0, 7, 20_000, 2)
    assert many.min() >= 0 and many.max() < 1
    assert np.allclose(np.histogram(many, 10, (0, 1))[0] / many.size, 0.1, atol=0.01)
    assert not np.array_equal(many, draws(0, 8, 20_000, 2))


def test_a_batch_that_devices_cannot_share_is_an_error():
    with pytest.raises(UserError, match="batch_size 7 cannot be shared by 2 devices"):
        BatchSchedule(10, 7, 0, world=2)
    with pytest.raises(UserError, match="no training sample"):
        BatchSchedule(0, 7, 0)
