"""Our GroupNorm against torch's: the same numbers, whichever kernel runs."""

import pytest
import torch
import torch.nn.functional as F
from taming.modules.diffusionmodules.model import Encoder
from torch import nn

from clipgen.tokenizer import norm
from clipgen.tokenizer.norm import GroupNorm, replace_group_norms

SHAPES = [((4, 32, 8, 8), 8), ((2, 64, 16, 16), 32), ((3, 48, 5, 7), 4), ((2, 16, 6, 6), 16), ((1, 24, 9, 3), 1)]


def layer(groups: int, channels: int) -> GroupNorm:
    torch.manual_seed(0)
    module = GroupNorm(groups, channels)
    nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(module.bias)
    return module


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.float() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize(("offset", "tolerance"), [(0.0, 1.0), (2.0, 3.0)])  # means that are not 0: some cancellation
def test_bfloat16_channels_last_agrees_with_float32(shape, groups, offset, tolerance):
    module, reference = layer(groups, shape[1]), layer(groups, shape[1])
    values = torch.randn(shape) + offset * torch.randn(1, shape[1], 1, 1)
    x = values.bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    x32 = x.detach().float().requires_grad_()
    grad = torch.randn(shape).bfloat16()

    made = module(x)
    made.backward(grad)
    wanted = F.group_norm(x32, groups, reference.weight, reference.bias, reference.eps)
    wanted.backward(grad.float())

    assert made.dtype == torch.bfloat16
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert relative(made, wanted) < 0.004 * tolerance  # one bf16 rounding is 0.0023
    assert relative(x.grad, x32.grad) < 0.006 * tolerance
    assert relative(module.weight.grad, reference.weight.grad) < 0.006 * tolerance
    assert relative(module.bias.grad, reference.bias.grad) < 0.006 * tolerance


def test_the_fast_kernel_is_used_for_bfloat16_channels_last_only(monkeypatch):
    used = []
    kernel = norm._ChannelsLast.apply
    monkeypatch.setattr(norm._ChannelsLast, "apply", lambda *args: used.append(args[0].dtype) or kernel(*args))
    module, x = layer(4, 16), torch.randn(2, 16, 4, 4)
    for other in (x, x.contiguous(memory_format=torch.channels_last), x.bfloat16()):
        module(other)
    assert used == []
    module(x.bfloat16().contiguous(memory_format=torch.channels_last))
    assert used == [torch.bfloat16]


def test_elsewhere_it_is_torch_itself():
    module, x = layer(4, 16), torch.randn(2, 16, 5, 5)
    assert torch.equal(module(x), F.group_norm(x, 4, module.weight, module.bias, module.eps))
    half = x.bfloat16()
    wanted = F.group_norm(half, 4, module.weight.bfloat16(), module.bias.bfloat16(), module.eps)
    assert torch.equal(module(half), wanted)


def test_replacing_keeps_parameters_and_keys():
    shape = dict(ch=32, out_ch=3, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=[8], in_channels=3)
    encoder = Encoder(resolution=16, z_channels=8, double_z=False, **shape)
    before = dict(encoder.named_parameters())
    names = [name for name, module in encoder.named_modules() if isinstance(module, nn.GroupNorm)]
    replace_group_norms(encoder, 8)
    after = dict(encoder.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())
    modules = dict(encoder.named_modules())
    assert len(names) > 5
    assert {type(modules[name]) for name in names} == {GroupNorm}
    assert {modules[name].num_groups for name in names} == {8}
