"""Whether the device at hand is the faster for bf16."""

import time
from functools import lru_cache

import torch


@lru_cache
def bf16_pays(device: str) -> bool:
    """Whether a `cpu` or `cuda` multiplies matrices in bf16 at least as fast as in fp32.

    A GPU is asked. A CPU is tried on 256 × 256 matrices, best of five: without AVX512-BF16, as most desktops are,
    torch 2.15 takes a hundred times as long for them as in fp32 (24.8 against 0.24 ms on two cores of a Zen 3).
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _seconds(torch.bfloat16) <= _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    a_NN, b_NN = torch.ones(2, 256, 256, dtype=dtype)
    times = []
    for _ in range(6):  # the first one also makes what the others use again
        begun = time.perf_counter()
        a_NN @ b_NN
        times.append(time.perf_counter() - begun)
    return min(times[1:])
