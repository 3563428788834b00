"""CogView's stabilisers: what they compute is what the plain parts compute, where these do not overflow."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.transformer.blocks import Block, attend
from clipgen.transformer.norm import RMSNorm
from clipgen.transformer.relaxed import RelaxedLayerNorm, RelaxedRMSNorm, relaxed_attention
from clipgen.transformer.sight import unseen


def heads(scale: float, length: int = 9) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [scale * torch.randn(2, 3, length, 64) for _ in range(2)] + [torch.randn(2, 3, length, 64)]


@pytest.mark.parametrize("new", [9, 1, 4])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_relaxed_attention_is_plain_attention(new, scale):
    q, k, v = heads(scale)
    q = q[:, :, -new:]
    wanted = attend(q, k, v)
    torch.testing.assert_close(relaxed_attention(q, k, v), wanted, atol=1e-5, rtol=1e-5)


def test_relaxed_attention_survives_fp16_where_the_plain_product_overflows():
    q, k, v = heads(100.0)
    q = k * (1 + 0.01 * q / 100)  # what a position looks for is what it is
    plain = (q.half() @ k.half().transpose(-1, -2)) / 8 + unseen(9, 9, q.half())
    assert plain.isinf().any() and not torch.isfinite(plain.softmax(-1)).all()
    made = relaxed_attention(q.half(), k.half(), v.half())
    assert torch.isfinite(made).all()
    wanted = attend(q.half().double(), k.half().double(), v.half().double())
    torch.testing.assert_close(made.double(), wanted, atol=1e-2, rtol=1e-2)


def test_a_token_s_maximum_is_its_own():
    q, k, v = heads(1.0)
    q[1] *= 50  # batch mates that are far larger
    alone = relaxed_attention(q[:1], k[:1], v[:1])
    assert torch.equal(relaxed_attention(q, k, v)[:1], alone)
    x = torch.randn(2, 5, 32)
    norm = RelaxedLayerNorm(32)
    assert torch.equal(norm(torch.stack([x[0], 1e4 * x[1]]))[0], norm(x[0]))
    assert torch.equal(norm(torch.cat([x[0], 1e4 * x[1]]))[:5], norm(x[0]))


@pytest.mark.parametrize(("relaxed", "plain"), [(RelaxedLayerNorm, torch.nn.LayerNorm), (RelaxedRMSNorm, RMSNorm)])
def test_a_relaxed_norm_is_the_plain_one_up_to_eps(relaxed, plain):
    torch.manual_seed(0)
    x = 3 * torch.randn(4, 7, 256)
    made, wanted = relaxed(256), plain(256)
    made.load_state_dict(wanted.state_dict())
    torch.testing.assert_close(made(x), wanted(x), atol=2e-4, rtol=2e-4)
    made.eps = wanted.eps = 0.0
    torch.testing.assert_close(made(x), wanted(x), atol=2e-6, rtol=1e-5)
    assert torch.isfinite(made(torch.zeros(1, 256)) if made.eps else torch.zeros(1)).all()
    made.eps = 1e-5
    assert (made(torch.zeros(1, 256)) == 0).all()  # no division by nothing


def half_layer_norm(x: torch.Tensor) -> torch.Tensor:
    """LayerNorm with every step in fp16; torch's own kernels sum in fp32."""
    centred = x - (x.sum(-1, keepdim=True) / x.shape[-1])
    return centred / ((centred * centred).sum(-1, keepdim=True) / x.shape[-1] + 1e-5).sqrt()


def test_a_relaxed_norm_survives_pure_fp16():
    from clipgen.transformer.relaxed import relax

    torch.manual_seed(0)
    x = (1000 * torch.randn(6, 2560)).half()
    wanted = F.layer_norm(x.double(), (2560,))
    assert not torch.allclose(half_layer_norm(x).double(), wanted, atol=0.5)  # squares pass 65,504
    torch.testing.assert_close(half_layer_norm(relax(x)).double(), wanted, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("modern", [True, False])
def test_sandwich_norms_what_a_branch_adds(modern):
    torch.manual_seed(0)
    block = Block(64, 2, 0.0, modern, sandwich=True)
    x = torch.randn(1, 5, 64)
    one, zero = torch.ones(5, 32), torch.zeros(5, 32)
    plain = block(x, one, zero, None, 0) - x
    for ending in (block.attention.out, block.mlp.down):
        ending.weight.data *= 1000  # a branch that explodes
        if ending.bias is not None:
            ending.bias.data *= 1000
    assert 0.3 < (block(x, one, zero, None, 0) - x).norm() / plain.norm() < 3
    assert {name for name, _ in Block(64, 2, 0.0, modern).named_parameters()} < dict(block.named_parameters()).keys()
