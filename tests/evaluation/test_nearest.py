"""The nearest training picture, by brute force."""

import numpy as np
import pytest
import torch

from clipgen.evaluation.nearest import nearest


def pictures(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_it_is_the_nearest_of_all_batches(size):
    samples, training = pictures(40, 0), pictures(60, 1)
    batches = [{"image": torch.from_numpy(training[i : i + size])} for i in range(0, 60, size)]
    found, distances = nearest(samples, batches)
    squares = (samples[:, None].astype(float) - training[None]) ** 2
    rms = squares.mean((2, 3, 4)) ** 0.5
    assert found.dtype == np.uint8
    assert np.array_equal(found, training[rms.argmin(1)])
    np.testing.assert_allclose(distances, rms.min(1), rtol=1e-3)


def test_a_copy_is_found_out():
    training = pictures(50, 1)
    samples = training[[49, 3]].copy()
    samples[1] = np.where(samples[1] < 250, samples[1] + 2, samples[1] - 2)
    found, distances = nearest(samples, [{"image": torch.from_numpy(training)}])
    assert np.array_equal(found, training[[49, 3]])
    assert distances == pytest.approx([0, 2], abs=0.1)
