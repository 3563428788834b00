"""The published Transformer gives the same logits as ours with its weights, at once and step by step."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.transformer.cache import KVCache
from clipgen.transformer.imported import from_hfai, published_weights
from clipgen.transformer.model import Transformer


@pytest.fixture(scope="module")
def both(published_gpt):
    theirs = published_gpt()
    settings, state = from_hfai(theirs.state_dict())
    ours = Transformer(**settings).eval()
    ours.load_state_dict(state)
    torch.manual_seed(1)
    return theirs, ours, torch.randint(30, (3, 16)), F.normalize(torch.randn(3, 8), dim=-1)


@torch.no_grad()
def test_the_logits_are_theirs(both):
    theirs, ours, tokens_BL, condition_BE = both
    wanted_BLV = theirs(tokens_BL[:, :-1], condition_BE)
    assert wanted_BLV.std() > 0.5
    found_BLV = ours(tokens_BL, condition_BE, torch.ones(3))
    torch.testing.assert_close(found_BLV, wanted_BLV, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_so_they_are_with_the_cache(both):
    theirs, ours, tokens_BL, condition_BE = both
    wanted_BLV = theirs(tokens_BL[:, :-1], condition_BE)
    cache, x_BSD = KVCache(2, 3, 2, 16, 64, torch.float32, "cpu"), ours.conditioner(condition_BE, torch.ones(3))
    for place in range(16):
        torch.testing.assert_close(ours.step(x_BSD, cache), wanted_BLV[:, place], atol=1e-5, rtol=1e-5)
        x_BSD = ours.embed(tokens_BL[:, place])[:, None]


def test_what_the_weights_say_of_the_network(both):
    settings, _ = from_hfai(both[0].state_dict())
    assert settings["grid"] == [4, 4] and settings["heads"] == 2 and settings["depth"] == 2
    assert not settings["centred"] and settings["cond_drop_prob"] == 0


def test_it_is_known_in_its_checkpoint_and_alone(published_gpt):
    state = published_gpt().state_dict()
    assert published_weights({"model": state, "epoch": 3}).keys() == published_weights(state).keys() == state.keys()
    assert published_weights({"model": {"a": 1}}) is None
    assert published_weights([1]) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("pos_emb"), "lacks place_LD"),
        (lambda state: state.pop("blocks.1.encoder.linear1.bias"), r"none where blocks.1.mlp.up.bias of \(512,\)"),
        (lambda state: state.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda state: state.update({"head.bias": torch.zeros(7)}), r"has \(7,\) where head.bias of \(30,\)"),
    ],
)
def test_what_does_not_fit_is_named(published_gpt, change, said):
    state = dict(published_gpt().state_dict())
    change(state)
    with pytest.raises(ValueError, match=said):
        from_hfai(state)
