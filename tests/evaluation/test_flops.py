"""A training step is charged what its matrix products cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipgen.evaluation.flops import Size, step_flops
from clipgen.transformer.model import Transformer

GRID, BATCH, CODES = (4, 4), 3, 40


def model(**settings) -> Transformer:
    wanted = {"width": 64, "depth": 3, "heads": 2, "n_prefix": 2} | settings
    return Transformer(grid=GRID, codebook_size=CODES, embed_dim=16, **wanted)


def counted(transformer: Transformer) -> int:
    """Forward and backward by torch's own counter, without the products that make the prefix."""
    tokens_BL = torch.randint(CODES, (BATCH, transformer.n_tokens))
    inputs = tokens_BL, torch.randn(BATCH, 16), torch.ones(BATCH)
    with FlopCounterMode(display=False) as everything:
        transformer(*inputs).sum().backward()
    with FlopCounterMode(display=False) as prefix:
        transformer.conditioner(*inputs[1:]).sum().backward()
    return everything.get_total_flops() - prefix.get_total_flops()


@pytest.mark.parametrize("settings", [{}, {"n_prefix": 9}, {"style": "gpt2", "n_prefix": 1}])
def test_a_step_costs_what_torch_counts(settings):
    transformer = model(**settings)
    size = Size.of(transformer)
    found = step_flops(size, transformer.n_prefix + 15, {"head": 16}, BATCH)
    assert found == pytest.approx(counted(transformer), rel=0.03)  # biases and norms are counted as products


def test_blocks_do_not_follow_vocabulary_or_prefix():
    one, other = Size.of(model()), Size.of(model(n_prefix=8))
    assert one.blocks == other.blocks and other.embedding > one.embedding
    with torch.device("meta"):
        assert Size.of(model()) == one
    assert one.blocks + sum(one.heads.values()) + one.embedding == sum(p.numel() for p in model().parameters())
    assert one.heads == {"head": 64 * CODES} and (one.depth, one.width) == (3, 64)
