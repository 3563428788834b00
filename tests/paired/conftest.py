"""A small Transformer of text and image, in either order."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

SIZES = dict(grid=[2, 3], codebook_size=16, pieces=10, text_length=6, width=32, depth=2, heads=2)


@pytest.fixture(scope="session")
def network() -> Callable[..., nn.Module]:
    """Makes one of `kind`; heads of zeros, as a training begins with, would tell nothing."""

    def network(kind: type[nn.Module], **changes) -> nn.Module:
        torch.manual_seed(0)
        model = kind(**SIZES | changes)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return network
