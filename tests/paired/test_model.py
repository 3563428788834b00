"""The paired Transformer: its sequence, what padding may touch, its cache, and its sampling."""

from functools import partial

import pytest
import torch

from clipgen.paired.layout import Layout
from clipgen.paired.loss import counted, weighted
from clipgen.paired.model import PairedTransformer
from clipgen.transformer import blocks, sight
from clipgen.transformer.packed import prepared
from clipgen.transformer.sampling import Given, generate, sample

K, PIECES, LENGTH = 16, 10, 6
LAYOUT = Layout(K, PIECES, LENGTH)
TEXTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1], []]
SPARSE = dict(window=2, pivots=2)
COGVIEW = dict(style="gpt2", sandwich=True, pb_relax=True, shrink_gradient=0.1)


@pytest.fixture
def network(network):
    return partial(network, kind=PairedTransformer)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    tokens_BL = torch.randint(0, K, (len(TEXTS), 6), generator=torch.Generator().manual_seed(1))
    return tokens_BL, LAYOUT.prefix(TEXTS)


def test_the_sequence_is_cogview_s_in_one_vocabulary(network):
    pad, first, base, begin, end = range(K + PIECES, K + PIECES + 5)
    assert LAYOUT.prefix([[1, 2], [3]]).tolist() == [
        [pad, pad, pad, pad, first, K + 1, K + 2, base, begin],
        [pad, pad, pad, pad, pad, first, K + 3, base, begin],
    ]
    assert (LAYOUT.size, LAYOUT.command("EOI1")) == (end + 1, end)
    assert network().embed.num_embeddings == LAYOUT.size
    cut = LAYOUT.prefix([[1, 2, 3, 4, 5, 6, 7, 8]])
    assert torch.equal(cut, LAYOUT.prefix([[1, 2, 3, 4, 5, 6]])) and cut[0, 0] == first


@pytest.mark.parametrize("plain", [True, False])  # or torch's fused kernel, as on a GPU
@pytest.mark.parametrize("changes", [{}, COGVIEW, {"pb_relax": True}])
def test_a_row_has_the_logits_that_it_has_without_padding(network, monkeypatch, changes, plain):
    monkeypatch.setattr(blocks, "PLAIN_ATTENTION_UP_TO", 512 if plain else 0)
    model, (tokens_BL, text_BP) = network(**changes), inputs()
    text_logits, image_logits = model.outputs(tokens_BL, text_BP)
    assert torch.isfinite(text_logits).all()  # of padding too, or its gradient would be NaN
    for i, pieces in enumerate(TEXTS):
        short = network(**changes | {"text_length": len(pieces)})
        state = model.state_dict()
        state["place_of_text_PD"] = state["place_of_text_PD"][: len(pieces) + 3]
        short.load_state_dict(state)
        alone = short.outputs(tokens_BL[i : i + 1], short.layout.prefix([pieces]))
        torch.testing.assert_close(image_logits[i : i + 1], alone[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text_logits[i : i + 1, LENGTH - len(pieces) :], alone[0], atol=1e-5, rtol=1e-5)


def test_nothing_that_is_to_come_is_seen(network):
    model, (tokens_BL, text_BP) = network(), inputs()
    text_logits, image_logits = model.outputs(tokens_BL, text_BP)
    changed_BL = tokens_BL.clone()
    changed_BL[:, 3] = (changed_BL[:, 3] + 1) % K
    other_text, other_image = model.outputs(changed_BL, text_BP)
    assert torch.equal(other_text, text_logits)
    assert torch.equal(other_image[:, :4], image_logits[:, :4])
    assert not torch.equal(other_image[:, 4], image_logits[:, 4])


def test_padding_is_not_trained_on(network):
    pad, base = LAYOUT.command("PAD"), LAYOUT.command("BASE")
    counts_BT = counted(LAYOUT.prefix(TEXTS), pad, base)
    assert counts_BT.sum(1).tolist() == [4, 2, 7, 1]  # the pieces, and [BASE], which ends them
    model, (tokens_BL, text_BP) = network(), inputs()
    hidden_BP = model.prefix(text_BP)[1]
    assert hidden_BP.sum(1).tolist() == [3, 5, 0, 6]
    text_logits, image_logits = model.outputs(tokens_BL, text_BP)
    (text_logits[counts_BT].sum() + image_logits.sum()).backward()
    assert (model.embed.weight.grad[pad] == 0).all() and (model.embed.weight.grad[K + 1] != 0).any()


def test_scales_weigh_text_against_image_row_by_row():
    text_BT = torch.tensor([[1.0, 3.0, 9.0], [9.0, 9.0, 5.0]])
    counts_BT = torch.tensor([[True, True, False], [False, False, True]])
    image_BL = torch.tensor([[2.0, 2.0], [4.0, 4.0]])
    assert weighted(text_BT, counts_BT, image_BL, 1, 1) == pytest.approx(((4 + 4) / 4 + (5 + 8) / 3) / 2)
    assert weighted(text_BT, counts_BT, image_BL, 0, 1) == pytest.approx(3)
    assert weighted(text_BT, counts_BT, image_BL, 5, 2) == pytest.approx(((20 + 8) / 14 + (25 + 16) / 9) / 2)
    halves = [weighted(*(x[i : i + 1] for x in (text_BT, counts_BT, image_BL)), 5, 2) for i in range(2)]
    assert sum(halves) / 2 == pytest.approx(weighted(text_BT, counts_BT, image_BL, 5, 2).item())


def test_a_shrunk_gradient_is_alpha_of_its_own_and_changes_nothing_else(network):
    tokens_BL, text_BP = inputs()
    grads = []
    for alpha in (1.0, 0.1):
        model = network(shrink_gradient=alpha)
        model.outputs(tokens_BL, text_BP)[1].square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(grads[1]["embed.weight"], 0.1 * grads[0]["embed.weight"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(grads[1]["head.weight"], grads[0]["head.weight"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("changes", [{}, COGVIEW, SPARSE, COGVIEW | SPARSE])
@pytest.mark.parametrize("boost", [0.0, 1.4])
def test_the_cache_gives_the_logits_of_the_whole(network, monkeypatch, changes, plain, boost):
    monkeypatch.setattr(blocks, "PLAIN_ATTENTION_UP_TO", 512 if plain else 0)
    monkeypatch.setattr(sight, "BLOCKS_PAY_FROM", 512 if plain else 0)
    model, (tokens_BL, text_BP) = network(**changes), inputs()
    x_BSD, hidden_BP = model.prefix(text_BP)
    cache = model.new_cache(len(TEXTS))
    cache.sight = model.sight(len(TEXTS), hidden_BP, boost=boost)
    x_BTD = torch.cat([x_BSD, model.embed(tokens_BL[:, :-1])], 1)
    wanted = model.head(model.run(x_BTD, 0, sight=cache.sight)[:, model.n_prefix - 1 :])
    assert torch.allclose(wanted, model(tokens_BL, text_BP), atol=1e-5) == (boost == 0)
    for place in range(6):
        torch.testing.assert_close(model.step(x_BSD, cache), wanted[:, place], atol=1e-5, rtol=1e-5)
        x_BSD = model.embed(tokens_BL[:, place])[:, None]


@pytest.mark.parametrize("changes", [{}, COGVIEW, SPARSE])
def test_an_image_does_not_depend_on_its_batch_mates(network, changes):
    model, text_BP = prepared(network(**changes)), LAYOUT.prefix(TEXTS)
    together = generate(model, text_BP, None, [7, 8, 9, 10], guidance_scale=2.0, prefix_boost=0.5)
    for i in range(len(TEXTS)):
        alone = generate(model, text_BP[i : i + 1], None, [7 + i], guidance_scale=2.0, prefix_boost=0.5)
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(together, generate(model, text_BP, None, [7, 8, 9, 10]))  # guidance does something


def test_what_is_out_of_sight_changes_nothing_and_what_is_in_sight_does(network):
    model, (tokens_BL, text_BP) = network(depth=1, window=2, pivots=1), inputs()
    pivot_BYQ = torch.tensor([[[1]]]).expand(len(TEXTS), -1, -1)
    wanted = model.outputs(tokens_BL, text_BP, pivot_BYQ)[1]
    for place in range(5):
        changed_BL = tokens_BL.clone()
        changed_BL[:, place] = (changed_BL[:, place] + 1) % K
        made = model.outputs(changed_BL, text_BP, pivot_BYQ)[1]
        differ = [not torch.equal(made[:, i], wanted[:, i]) for i in range(6)]
        assert differ == [i in (place + 1, place + 2) or (place == 1 and i > 1) for i in range(6)]


def test_an_image_s_seed_draws_its_pivots(network, monkeypatch):
    model, drawn = network(**SPARSE), []
    monkeypatch.setattr(model, "sight", lambda *a: drawn.append(a[2]) or PairedTransformer.sight(model, *a))
    for seeds in ([1, 2, 1], [2]):
        generate(model, LAYOUT.prefix([[1]] * len(seeds)), None, seeds, guidance_scale=2.0)
    (first, other, again, *of_null), alone = drawn[0], drawn[1]
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(alone[0], other)
    assert torch.equal(torch.stack(of_null), drawn[0][:3])  # guidance compares what sees alike


def test_guidance_leads_away_from_no_text(network):
    model = network()
    null_BP = LAYOUT.prefix([[]] * 3)
    scaled = generate(model, null_BP, None, [1, 2, 3], guidance_scale=5.0)
    assert torch.equal(scaled, generate(model, null_BP, None, [1, 2, 3]))
    x_BPD, hidden_BP = model.null_prefix(3)
    assert torch.equal(x_BPD, model.prefix(null_BP)[0]) and hidden_BP.sum() == 3 * LENGTH


def test_known_tokens_are_kept_and_preferences_are_told(network):
    given = Given(torch.arange(6), torch.tensor([True, False, True, True, False, False]))
    made = sample(network(), LAYOUT.prefix(TEXTS), None, [1, 2, 3, 4], 2.0, given=given, prefer=True)
    assert (made.token_Bhw.flatten(1)[:, given.known_L] == torch.tensor([0, 2, 3])).all()
    assert made.preference_B[3] == 0 and (made.preference_B[:3] != 0).all()  # the last is of no text itself


def test_it_is_sampled_in_bf16_too(network):
    half = prepared(network(), "bf16")
    assert half.embed.weight.dtype == torch.bfloat16
    assert generate(half, LAYOUT.prefix(TEXTS), None, [1, 2, 3, 4], guidance_scale=2.0).shape == (4, 2, 3)
