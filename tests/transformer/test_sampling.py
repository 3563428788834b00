"""Sampling: what is kept, what is drawn, and that an image depends on its own seed only."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.transformer.model import Transformer
from clipgen.transformer.sampling import draw, generate, guide, top_k_top_p

LOGITS = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()[:, [2, 0, 4, 1, 3]]  # probabilities .15 .5 .05 .2 .1


def kept(logits_BV: torch.Tensor) -> list[int]:
    return torch.isfinite(logits_BV[0]).nonzero().flatten().tolist()


ALL = [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("top_k", "wanted"), [(0, ALL), (1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (5, ALL), (9, ALL)])
def test_top_k_keeps_the_k_best(top_k, wanted):
    assert kept(top_k_top_p(LOGITS, top_k=top_k)) == wanted


@pytest.mark.parametrize(
    ("top_p", "wanted"),
    [(1.0, ALL), (0.9, [0, 1, 3, 4]), (0.8, [0, 1, 3]), (0.6, [1, 3]), (0.4, [1]), (1e-9, [1]), (0.0, [1])],
)
def test_top_p_keeps_the_fewest_that_reach_p_and_always_the_best(top_p, wanted):
    assert kept(top_k_top_p(LOGITS, top_p=top_p)) == wanted


def test_top_p_counts_among_what_top_k_left():
    assert kept(top_k_top_p(LOGITS, top_k=2, top_p=0.72)) == [1, 3]  # .5 of .7 is not .72
    assert kept(top_k_top_p(LOGITS, top_k=2, top_p=0.7)) == [1]


def test_what_is_kept_keeps_its_logit_and_rows_are_their_own():
    rows = torch.cat([LOGITS, LOGITS.flip(-1)])
    filtered = top_k_top_p(rows, top_p=0.6)
    assert torch.equal(torch.isfinite(filtered[0]), torch.isfinite(filtered[1]).flip(-1))
    assert torch.equal(filtered[torch.isfinite(filtered)], rows[torch.isfinite(filtered)])


def test_guidance():
    conditional, null = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    assert torch.equal(guide(conditional, null, 1), conditional)
    assert torch.equal(guide(conditional, null, 0), null)
    assert torch.equal(guide(conditional, null, 3), torch.tensor([[2.0, 0.0]]))


def test_drawing_follows_the_distribution():
    p_V = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    uniform_B = (torch.arange(10_000) + 0.5) / 10_000
    counts = torch.bincount(draw(p_V.expand(10_000, -1), uniform_B), minlength=6)
    torch.testing.assert_close(counts / 10_000, p_V, atol=2e-4, rtol=0)


def test_what_has_probability_zero_is_never_drawn():
    p_BV = torch.zeros(3, 5)
    p_BV[:, 1], p_BV[:, 3] = 0.3, 0.7
    assert draw(p_BV, torch.tensor([0.0, 1 - 2**-24, 1.0])).tolist() == [1, 3, 3]
    rows = top_k_top_p(torch.randn(5000, 50), top_k=3).softmax(-1)
    assert (rows.gather(1, draw(rows, torch.rand(5000))[:, None]) > 0).all()


def test_a_large_codebook_is_drawn_to_its_end():
    p_BV = torch.full((2, 65_536), 1 / 65_536)
    assert draw(p_BV, torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, 65_535]


def model() -> Transformer:
    torch.manual_seed(0)
    made = Transformer((3, 4), codebook_size=20, embed_dim=6, width=32, depth=2, heads=2, n_prefix=3).eval()
    torch.nn.init.normal_(made.head.weight, std=0.5)
    for block in made.blocks:
        for matrix in (block.attention.qkv.weight, block.attention.out.weight):
            torch.nn.init.normal_(matrix, std=0.2)  # so that a condition makes a difference
    torch.nn.init.normal_(made.conditioner.null_PD)
    return made


CONDITIONS = F.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(5)), dim=-1)
LEVELS = torch.full((3,), 0.9)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_image_does_not_depend_on_its_batch_mates(scale):
    network = model()
    together = generate(network, CONDITIONS, LEVELS, [7, 8, 9], scale)
    assert together.shape == (3, 3, 4)
    for i, seed in enumerate([7, 8, 9]):
        alone = generate(network, CONDITIONS[i : i + 1], LEVELS[:1], [seed], scale)
        assert torch.equal(alone[0], together[i])


def test_the_seed_decides():
    network, same = model(), CONDITIONS[:1].expand(3, -1)
    torch.manual_seed(1)
    first = generate(network, same, LEVELS, [7, 8, 7])
    torch.manual_seed(2)  # the global generator has no part in it
    assert torch.equal(generate(network, same, LEVELS, [7, 8, 7]), first)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])


def test_guidance_uses_the_null():
    network, seeds = model(), [7, 7, 7]
    unguided = generate(network, CONDITIONS, LEVELS, seeds, 1.0)
    assert not torch.equal(unguided[0], unguided[1])
    null = generate(network, CONDITIONS, LEVELS, seeds, 0.0)  # the null's logits only
    assert torch.equal(null[0], null[1])
    with torch.no_grad():
        network.conditioner.null_PD.neg_()
    assert torch.equal(generate(network, CONDITIONS, LEVELS, seeds, 1.0), unguided)
    assert not torch.equal(generate(network, CONDITIONS, LEVELS, seeds, 3.0), unguided)
    assert not torch.equal(generate(network, CONDITIONS, LEVELS, seeds, 0.0), null)


@torch.no_grad()
@pytest.mark.parametrize("greedy", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": 0.0}])
def test_greedy_sampling_takes_the_best_of_the_guided_logits(greedy):
    network = model()
    tokens_BL = generate(network, CONDITIONS, LEVELS, [1, 2, 3], 2.0, **greedy).flatten(1)
    conditional = network(tokens_BL, CONDITIONS, LEVELS)
    own_null = network.conditioner.null
    network.conditioner.forward = lambda condition_BE, level_B, *_: own_null(len(condition_BE))
    null = network(tokens_BL, CONDITIONS, LEVELS)
    assert torch.equal(guide(conditional, null, 2.0).argmax(-1), tokens_BL)


def test_a_high_temperature_forgets_the_logits():
    network = model()
    with torch.no_grad():
        network.head.weight.mul_(100)
    cold = generate(network, CONDITIONS[:1].expand(8, -1), LEVELS[:1].expand(8), range(8), temperature=0.01)
    hot = generate(network, CONDITIONS[:1].expand(8, -1), LEVELS[:1].expand(8), range(8), temperature=1e6)
    assert len(cold.flatten(1).unique(dim=0)) == 1
    assert len(hot.unique()) == 20


def test_each_token_is_told():
    told = []
    generate(model(), CONDITIONS, LEVELS, [1, 2, 3], on_token=lambda: told.append(1))
    assert len(told) == 12
