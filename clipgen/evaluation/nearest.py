"""Is it a copy? The training picture nearest to a sample, by pixels.

N samples, M training pictures, P values of a picture
"""

from collections.abc import Iterable

import numpy as np
import torch


def nearest(samples: np.ndarray, batches: Iterable[dict[str, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """For each sample uint8 (N, H, W, 3) the nearest training picture and its root mean square distance in levels."""
    samples_NP = torch.from_numpy(samples).flatten(1).float()
    least_N = torch.full((len(samples),), float("inf"))
    found = np.zeros_like(samples)
    for batch in batches:
        pixels_MP = batch["image"].flatten(1).float()
        distances_NM = torch.cdist(samples_NP, pixels_MP)
        values_N, where_N = distances_NM.min(1)
        better_N = values_N < least_N
        least_N = torch.minimum(least_N, values_N)
        found[better_N.numpy()] = batch["image"][where_N[better_N]].numpy()
    return found, (least_N / samples_NP.shape[1] ** 0.5).numpy()
