"""A training step is charged what its matrix products cost."""

from itertools import combinations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipgen.evaluation.flops import Size, muon_flops, share_seen, step_flops
from clipgen.transformer.model import Transformer
from clipgen.transformer.optim import make_optimizers
from clipgen.transformer.sight import Sight

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


def test_a_step_of_muon_costs_what_torch_counts():
    transformer = model()
    _, muon = make_optimizers(transformer, "muon", 1e-3, 1e-2, 0.0, float32=True)
    for parameter in transformer.parameters():
        parameter.grad = torch.randn_like(parameter)
    with FlopCounterMode(display=False) as counter:
        muon.step()
    with torch.device("meta"):
        assert muon_flops(model()) == counter.get_total_flops() > 0


@pytest.mark.parametrize(("prefix", "window", "pivots"), [(3, 1, 0), (3, 4, 2), (1, 6, 3), (5, 2, 8), (2, 9, 1)])
def test_of_sparse_attention_is_counted_what_its_mask_lets_through(prefix, window, pivots):
    """On average over every way to draw the pivots."""
    tokens = 10
    T = prefix + tokens - 1
    draws = [*combinations(range(tokens - 1), pivots)]
    drawn = torch.tensor(draws, dtype=torch.long).view(len(draws), 1, pivots)
    sight = Sight(torch.zeros(len(drawn), prefix), window, drawn)
    pairs = sight.bias(T, T, 0, torch.zeros(())).isfinite().sum((1, 2)).double().mean().item()
    share = pairs / (T * (T + 1) / 2)
    assert share_seen(prefix, tokens, window, pivots) == pytest.approx(share, rel=1e-12)
    size = Size(0, {}, 0, 3, 64)
    assert step_flops(size, T, {}, 2, share) == pytest.approx(2 * 12 * 3 * 64 * T**2 * share)


def test_blocks_do_not_follow_vocabulary_or_prefix():
    one, other = Size.of(model()), Size.of(model(n_prefix=8))
    assert one.blocks == other.blocks and other.embedding > one.embedding
    with torch.device("meta"):
        assert Size.of(model()) == one
    assert one.blocks + sum(one.heads.values()) + one.embedding == sum(p.numel() for p in model().parameters())
    assert one.heads == {"head": 64 * CODES} and (one.depth, one.width) == (3, 64)
