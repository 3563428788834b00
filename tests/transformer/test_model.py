"""The Transformer: causality, the cache, attention, and where a token stands."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipgen.transformer import blocks
from clipgen.transformer.blocks import attend, rotate
from clipgen.transformer.cache import KVCache
from clipgen.transformer.model import Transformer, rotary_2d

GRID = (3, 4)
L = 12


def transformer(**changes) -> Transformer:
    torch.manual_seed(0)
    settings = dict(grid=GRID, codebook_size=20, embed_dim=6, width=32, depth=2, heads=2, n_prefix=3)
    made = Transformer(**settings | changes).eval()
    torch.nn.init.normal_(made.head.weight, std=0.5)  # it begins at zero
    return made


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens_BL = torch.randint(20, (batch, L), generator=generator)
    condition_BE = F.normalize(torch.randn(batch, 6, generator=generator), dim=-1)
    return tokens_BL, condition_BE, torch.rand(batch, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("plain", [True, False])
def test_a_token_changes_later_logits_only(monkeypatch, plain):
    monkeypatch.setattr(blocks, "PLAIN_ATTENTION_UP_TO", 512 if plain else 0)
    model, (tokens_BL, condition_BE, level_B) = transformer(), inputs()
    before = model(tokens_BL, condition_BE, level_B)
    assert before.shape == (2, L, 20)
    for place in range(L):
        other_BL = tokens_BL.clone()
        other_BL[:, place] = (tokens_BL[:, place] + 1) % 20
        after = model(other_BL, condition_BE, level_B)
        torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1], atol=1e-6, rtol=0)
        if place + 1 < L:
            assert (after[:, place + 1] - before[:, place + 1]).abs().max() > 1e-4


@torch.no_grad()
def test_every_logit_depends_on_the_condition_and_the_level():
    model, (tokens_BL, condition_BE, level_B) = transformer(), inputs()
    before = model(tokens_BL, condition_BE, level_B)
    for after in (model(tokens_BL, -condition_BE, level_B), model(tokens_BL, condition_BE, 1 - level_B)):
        assert ((after - before).abs().amax((0, 2)) > 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize("plain", [True, False])
def test_steps_with_a_cache_give_the_logits_of_the_whole(monkeypatch, plain):
    monkeypatch.setattr(blocks, "PLAIN_ATTENTION_UP_TO", 512 if plain else 0)
    model, (tokens_BL, condition_BE, level_B) = transformer(), inputs()
    wanted = model(tokens_BL, condition_BE, level_B)
    cache = KVCache(2, 2, 2, model.n_prefix + L - 1, 16, torch.float32, "cpu")
    x_BSD = model.conditioner(condition_BE, level_B)
    for place in range(L):
        logits_BV = model.step(x_BSD, cache)
        torch.testing.assert_close(logits_BV, wanted[:, place], atol=1e-5, rtol=1e-5)
        x_BSD = model.embed(tokens_BL[:, place])[:, None]
    assert cache.length == model.n_prefix + L - 1  # the last token is never an input


def heads(length: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 3, length, 8, generator=torch.Generator().manual_seed(seed))


CASES = [(7, 7, True), (1, 7, True), (1, 1, True), (3, 7, True), (7, 7, False), (1, 7, False), (1, 1, False)]


@pytest.mark.parametrize(("new", "all_", "plain"), CASES)
def test_attention_is_torchs_whichever_kernel_runs(monkeypatch, new, all_, plain):
    monkeypatch.setattr(blocks, "PLAIN_ATTENTION_UP_TO", 512 if plain else 0)
    q, k, v = heads(new, 1), heads(all_, 2), heads(all_, 3)
    seen_ST = torch.ones(all_, all_, dtype=torch.bool).tril()[all_ - new :]  # the last `new` positions
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_ST)
    torch.testing.assert_close(attend(q, k, v), wanted)


def test_the_prefix_does_not_turn():
    cos_TK, sin_TK = rotary_2d(3, 4, 16, n_prefix=5, base=100.0)
    assert cos_TK.shape == sin_TK.shape == (5 + L, 16)
    x = heads(5, 1).repeat(1, 1, 1, 2)
    assert torch.equal(rotate(x, cos_TK[:5], sin_TK[:5]), x)
    assert (sin_TK[5:].abs().amax(-1) > 0.1).all()


def test_attention_between_image_tokens_depends_on_where_they_are_to_each_other():
    h, w = 5, 6
    cos_TK, sin_TK = rotary_2d(h, w, 16, n_prefix=0, base=100.0)
    q_K, k_K = torch.randn(16), torch.randn(16)
    turned_q, turned_k = rotate(q_K.expand(30, 16), cos_TK, sin_TK), rotate(k_K.expand(30, 16), cos_TK, sin_TK)
    scores = turned_q @ turned_k.T
    found: dict[tuple[int, int], float] = {}
    for i in range(h * w):
        for j in range(h * w):
            apart = i // w - j // w, i % w - j % w
            assert found.setdefault(apart, scores[i, j].item()) == pytest.approx(scores[i, j].item(), abs=1e-4)
    assert abs(found[0, 1] - found[1, 0]) > 1e-3  # a row is not a column
    assert abs(found[0, 1] - found[0, -1]) > 1e-3
    torch.testing.assert_close(turned_q.norm(dim=-1), q_K.norm().expand(30))


def test_a_head_that_cannot_turn_in_two_dimensions_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        transformer(width=36, heads=6)


@torch.no_grad()
def test_the_place_is_that_of_the_token_to_come():
    model, (tokens_BL, condition_BE, level_B) = transformer(depth=1), inputs()
    model.blocks[0].attention.out.weight.zero_()  # so that a place reaches its own logits only
    before = model(tokens_BL, condition_BE, level_B)
    for place in (0, 1, L - 1):
        original = model.place_LD[place].clone()
        model.place_LD[place] += 1 + torch.arange(32.0)
        changed = (model(tokens_BL, condition_BE, level_B) - before).abs().amax((0, 2)) > 1e-4
        model.place_LD[place] = original
        assert changed.nonzero().flatten().tolist() == [place]


@torch.no_grad()
def test_training_begins_with_every_code_as_likely():
    model = Transformer(GRID, 20, 6, 32, 2, 2)
    tokens_BL, condition_BE, level_B = inputs()
    loss = F.cross_entropy(model(tokens_BL, condition_BE, level_B).flatten(0, 1), tokens_BL.flatten())
    assert loss.item() == pytest.approx(math.log(20))


@torch.no_grad()
def test_bfloat16_autocast_agrees_with_float32():
    model, arguments = transformer(), inputs()
    wanted = model(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*arguments)
    assert (found.float() - wanted).norm() / wanted.norm() < 0.03
