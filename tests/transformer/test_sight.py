"""What attention sees: the three regions are a dense mask's, however they are computed, and a boost is a summand."""

import pytest
import torch

from clipgen.transformer import sight as sight_module
from clipgen.transformer.blocks import attend
from clipgen.transformer.relaxed import relaxed_attention
from clipgen.transformer.sight import HIDDEN, Sight, attend_in_blocks, draw_pivots

B, N, K, P, L, LAYERS = 2, 3, 16, 5, 90, 2


def case(window: int, pivots: int) -> Sight:
    hidden_BP = torch.arange(P) < torch.tensor([[0], [2]])
    prefix_BP = torch.full((B, P), 0.7).masked_fill(hidden_BP, HIDDEN)
    return Sight(prefix_BP, window, draw_pivots((B, LAYERS, L), pivots, torch.Generator().manual_seed(1)))


def heads(T: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(B, N, T, K, generator=generator, requires_grad=True) for _ in range(3)]


def reference(q, k, v, sight: Sight, layer: int) -> torch.Tensor:
    """Row by row in plain words."""
    rows = []
    for b in range(B):
        for i in range(k.shape[2] - q.shape[2], k.shape[2]):
            seen = [j for j in range(P) if j <= i and sight.prefix_BP[b, j] > 0]
            seen += [j for j in range(P, i + 1) if i - j < sight.window or j - P in sight.pivot_BYQ[b, layer].tolist()]
            if not seen:  # padding
                rows.append(torch.full((N, K), float("nan")))
                continue
            scores_Nj = (q[b, :, i - k.shape[2]][:, None] * k[b][:, seen]).sum(-1) / K**0.5
            scores_Nj = scores_Nj + torch.tensor([0.7 * (j < P) for j in seen])
            rows.append((scores_Nj.softmax(-1)[..., None] * v[b][:, seen]).sum(1))
    return torch.stack(rows).view(B, -1, N, K).transpose(1, 2)


def forward_and_gradients(made, inputs, known) -> list[torch.Tensor]:
    weight = torch.randn(made.shape, generator=torch.Generator().manual_seed(3))
    return [made[known], *torch.autograd.grad((made * weight)[known].sum(), inputs)]


@pytest.mark.parametrize("T", [P + L - 1, 64, P + 3])  # 64 is whole blocks
@pytest.mark.parametrize(("window", "pivots"), [(1, 7), (8, 20), (13, 0), (40, 6)])
@pytest.mark.parametrize("core", [attend, relaxed_attention])
def test_three_regions_are_the_dense_mask_s_forward_and_back(monkeypatch, core, window, pivots, T):
    monkeypatch.setattr(sight_module, "BLOCK", 16)
    sight, inputs = case(window, pivots), heads(T)
    for layer in range(LAYERS):
        wanted = reference(*inputs, sight, layer)
        known = ~wanted.isnan()
        wanted = forward_and_gradients(wanted, inputs, known)
        masked = core(*inputs, sight.bias(T, T, layer, inputs[0]))
        in_blocks = attend_in_blocks(core, *inputs, sight, layer)
        assert torch.isfinite(masked).all() and torch.isfinite(in_blocks).all()  # of padding too
        for made in (masked, in_blocks):
            torch.testing.assert_close(forward_and_gradients(made, inputs, known), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("new", [1, 3])
def test_the_last_positions_see_what_they_see_of_the_whole(new):
    sight, (q, k, v) = case(8, 20), heads(70)
    whole = attend(q, k, v, sight.bias(70, 70, 1, q))
    torch.testing.assert_close(attend(q[:, :, -new:], k, v, sight.bias(new, 70, 1, q)), whole[:, :, -new:])


def test_layers_have_pivots_of_their_own():
    sight, (q, k, v) = case(8, 20), heads(P + L - 1)
    one, other = (attend_in_blocks(attend, q, k, v, sight, layer) for layer in range(LAYERS))
    assert torch.equal(one[:, :, : P + 8], other[:, :, : P + 8]) and not torch.equal(one, other)


def test_blocks_are_for_long_images_and_whole_passes():
    sight = case(8, 20)
    keys = P + 20 + 8 + sight_module.BLOCK
    assert sight.in_blocks(2 * keys, 2 * keys) and not sight.in_blocks(2 * keys - 1, 2 * keys - 1)
    assert not sight.in_blocks(1, 8 * keys) and not case(0, 0).in_blocks(8 * keys, 8 * keys)


def test_pivots_differ_from_each_other():
    pivot_BYQ = draw_pivots((4, 3, 10), 9)
    assert (pivot_BYQ.sort(-1).values.diff() > 0).all() and pivot_BYQ.max() <= 9
    assert len(pivot_BYQ.flatten(0, 1).unique(dim=0)) > 1
