"""Random orders: how many there are when, and that a model in any order stays causal and steps alike."""

import pytest
import torch

from clipgen.transformer.cache import KVCache
from clipgen.transformer.model import Transformer
from clipgen.transformer.order import draw_orders, random_share

L = 6


@pytest.mark.parametrize(("done", "share"), [(0.0, 1.0), (0.5, 1.0), (0.625, 0.5), (0.75, 0.0), (1.0, 0.0)])
def test_the_share_falls_over_the_span(done, share):
    assert random_share(done, (0.5, 0.75)) == pytest.approx(share)
    assert random_share(done, (0.5, 0.75), last=0.5) == pytest.approx(0.5 + share / 2)


def test_a_span_of_nothing_is_a_step():
    assert [random_share(done, (0.5, 0.5)) for done in (0.49, 0.5)] == [1.0, 0.0]


def test_rows_are_permutations_and_as_many_random_as_asked_for():
    torch.manual_seed(0)
    order_BL = draw_orders(1000, 20, 0.3, "cpu")
    assert torch.equal(order_BL.sort(1).values, torch.arange(20).expand(1000, -1))
    assert (order_BL != torch.arange(20)).any(1).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(draw_orders(5, 20, 0.0, "cpu"), torch.arange(20).expand(5, -1))


def model() -> Transformer:
    torch.manual_seed(0)
    made = Transformer((2, 3), 20, 4, 32, 2, 2, n_prefix=2).eval()
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made


INPUTS = torch.randint(20, (2, L)), torch.randn(2, 4), torch.rand(2)


@torch.no_grad()
def test_raster_order_changes_nothing():
    network = model()
    raster_BL = torch.arange(L).expand(2, -1)
    torch.testing.assert_close(network(*INPUTS, raster_BL), network(*INPUTS))


@torch.no_grad()
def test_a_token_changes_only_what_comes_later_in_its_order():
    network, order_BL = model(), torch.tensor([[3, 0, 5, 1, 4, 2], [5, 4, 3, 2, 1, 0]])
    before = network(*INPUTS, order_BL)
    for i in range(L):
        other_BL = INPUTS[0].scatter(1, order_BL[:, i : i + 1], (INPUTS[0].gather(1, order_BL[:, i : i + 1]) + 1) % 20)
        changed = (network(other_BL, *INPUTS[1:], order_BL) - before).abs().amax((0, 2)) > 1e-6
        assert changed.tolist() == [j > i for j in range(L)]


@torch.no_grad()
def test_the_first_logits_know_which_place_they_are_asked_for():
    network = model()
    one, other = torch.tensor([[3, 0, 5, 1, 4, 2]]).expand(2, -1), torch.tensor([[0, 3, 5, 1, 4, 2]]).expand(2, -1)
    assert (network(*INPUTS, one)[:, 0] - network(*INPUTS, other)[:, 0]).abs().max() > 1e-4


@torch.no_grad()
def test_where_a_known_token_stands_matters():
    """Later logits depend on the places of earlier tokens, not only on the order of their codes."""
    network = model()
    order_BL = torch.tensor([[3, 0, 5, 1, 4, 2]]).expand(2, -1)
    moved_BL = torch.tensor([[0, 3, 5, 1, 4, 2]]).expand(2, -1)
    moved_tokens_BL = INPUTS[0].clone()
    moved_tokens_BL[:, [0, 3]] = INPUTS[0][:, [3, 0]]  # the same codes come in the same order, at other places
    later = network(*INPUTS, order_BL)[:, 3:] - network(moved_tokens_BL, *INPUTS[1:], moved_BL)[:, 3:]
    assert later.abs().max() > 1e-4


@torch.no_grad()
def test_steps_with_a_cache_give_the_logits_of_the_whole():
    network, order_BL = model(), torch.tensor([[3, 0, 5, 1, 4, 2], [5, 4, 3, 2, 1, 0]])
    wanted = network(*INPUTS, order_BL)
    cache, x_BSD = KVCache(2, 2, 2, network.n_prefix + L, 16, torch.float32, "cpu"), network.conditioner(*INPUTS[1:])
    for i in range(L):
        torch.testing.assert_close(network.step(x_BSD, cache, order_BL), wanted[:, i], atol=1e-5, rtol=1e-5)
        x_BSD = network.embed(INPUTS[0].gather(1, order_BL[:, i : i + 1]))
