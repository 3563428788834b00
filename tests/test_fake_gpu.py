"""What a GPU would refuse, where there is none: tensors on two devices. And where it would be made to wait.

Tensors of the fake one have a device, a type and a shape, no content. Only forward passes: torch's autograd asks for
a driver. What a real one computes is not shown.
"""

import traceback
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_flatten

from clipgen.clip.module import ClipModule
from clipgen.paired.captioner import CaptionTransformer, caption_losses, write
from clipgen.paired.model import PairedTransformer
from clipgen.paired.module import CaptionModule, PairedModule
from clipgen.tokenizer.adversary import Adversary
from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.perceptual import LPIPS
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer import bridges
from clipgen.transformer.loss import Reconstruction
from clipgen.transformer.model import Transformer
from clipgen.transformer.module import TransformerModule
from clipgen.transformer.optim import make_optimizers
from clipgen.transformer.sampling import Given, sample
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscale.module import UpscaleModule

GPU = torch.device("cuda:0")
aten = torch.ops.aten
B, E, K = 4, 8, 32
GRID, L = (2, 4), 8
TEXT = dict(grid=GRID, codebook_size=K, pieces=10, text_length=6, width=32, depth=2, heads=2)


class FakeGPU(FakeTensorMode):
    """Within it tensors on the GPU are fake, those on the CPU real.

    `waits` are the lines that asked for a value, or that sent one there and stood by until it had come.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        every, _ = tree_flatten((args, kwargs))
        if not any(isinstance(each, FakeTensor) or (isinstance(each, torch.device) and each == GPU) for each in every):
            return function(*args, **kwargs)
        if function is aten._local_scalar_dense.default:
            self._note()
            return 1.0 if every[0].dtype.is_floating_point else True
        if function is aten.nonzero.default:  # all of them, as a shape must be had
            self._note()
            size, how = [every[0].numel(), every[0].dim()], {"dtype": torch.long, "device": GPU}
            return super().__torch_dispatch__(aten.zeros.default, (), (size,), how)
        sent = function is aten._to_copy.default and kwargs.get("device") == GPU
        if sent and not isinstance(args[0], FakeTensor) and not kwargs.get("non_blocking"):
            self._note()
        return super().__torch_dispatch__(function, types, args, kwargs)

    def _note(self) -> None:
        ours = [frame for frame in traceback.extract_stack() if "/clipgen/" in frame.filename]
        self.waits.append(f"{ours[-1].filename}:{ours[-1].lineno} {ours[-1].line}" if ours else "a test")


def on_gpu(module: nn.Module) -> nn.Module:
    """With fake weights; `Module.to` would swap the tensors, which fake ones refuse."""
    for part in module.modules():
        if hasattr(part, "_device"):  # Lightning's
            part._device = GPU
        for kept in (part._parameters, part._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU)
                    kept[name] = nn.Parameter(fake, tensor.requires_grad) if kept is part._parameters else fake
    return module


@pytest.fixture
def gpu():
    with FakeGPU() as mode:
        yield mode


def transformer(**changes) -> Transformer:
    return on_gpu(Transformer(GRID, K, E, 32, 2, 2, **changes))


def test_it_tells_two_devices_apart_and_what_waits(gpu):
    there = torch.ones(2, device=GPU)
    with pytest.raises(RuntimeError, match="at least two devices"):
        there + torch.ones(2)
    assert torch.ones(2).sum().item() == 2 and not gpu.waits
    float(there.sum())
    assert gpu.waits == ["a test"]
    torch.ones(2).to(GPU, non_blocking=True)
    assert len(gpu.waits) == 1
    torch.ones(2).to(GPU)
    assert len(gpu.waits) == 2
    torch.tensor([1, 2], device=GPU)
    assert len(gpu.waits) == 3


@pytest.mark.parametrize(
    ("architecture", "how"),
    [
        ({}, {}),
        ({}, {"guidance_scale": 2.0, "top_k": 8, "temperature": 0.7, "guidance_schedule": "power_cosine"}),
        ({}, {"guidance_scale": 2.0, "top_p": 0.9, "min_p": 0.01, "prefix_boost": 1.0}),
        ({}, {"prefer": True}),
        ({"gft": True}, {"guidance_scale": 2.0}),
        ({"style": "gpt2"}, {"guidance_scale": 2.0}),
        ({}, {"given": True}),
        ({"any_order": True}, {"given": True, "guidance_scale": 2.0}),
        ({}, {"guidance_scale": 2.0, "top_k": 8, "clusters": True, "negative": True}),
    ],
)
def test_sampling_never_waits(gpu, architecture, how):
    model, more = transformer(**architecture).eval(), dict(how)
    if more.pop("given", False):
        known_L = torch.arange(L) < 3
        more["given"] = Given(torch.zeros(L, dtype=torch.long, device=GPU), known_L)
    if more.pop("clusters", False):
        more["cluster_V"] = torch.zeros(K, dtype=torch.long, device=GPU)
    if more.pop("negative", False):
        more["negative_BE"] = torch.randn(B, E, device=GPU)
    with torch.no_grad():  # instead of inference mode, in which fake tensors cannot be made of real ones
        made = sample.__wrapped__(model, torch.randn(B, E, device=GPU), torch.ones(B, device=GPU), range(B), **more)
    assert made.token_Bhw.device == GPU and made.token_Bhw.shape == (B, *GRID) and not gpu.waits


def stepped(module, batch) -> None:
    """All of a step of stage 2 but the backward pass."""
    on_gpu(module).log = lambda *_, **__: None
    drawn = module.draw(batch)
    for part in zip(*(value.chunk(2) for value in drawn.values()), strict=True):
        loss, _ = module.losses(**dict(zip(drawn, part, strict=True)))
        assert loss.device == GPU
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for float32 in (False, True):
        for optimizer in make_optimizers(module.transformer, "muon", 1e-3, 0.02, 0.01, float32=float32):
            optimizer.step()


def tokens(*shape) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.long, device=GPU)


@pytest.mark.parametrize(
    ("architecture", "training"),
    [
        ({}, {"label_smoothing": 0.1, "z_loss": 1e-4}),
        ({"style": "gpt2", "dropout": 0.1}, {"aux_weight": 0.1}),
        ({"gft": True, "cond_drop_prob": 0.2}, {}),
        ({"any_order": True}, {"rar": True}),
    ],
)
def test_a_step_of_stage_2_never_waits(gpu, architecture, training):
    module = TransformerModule(transformer(**architecture), torch.zeros(E), steps=40, **training)
    batch = {"tokens": tokens(B, L), "clip": torch.randn(B, E, device=GPU)}
    stepped(module, batch)
    module.validation_step(batch, 0)
    assert not gpu.waits


def test_the_reconstruction_loss_is_on_the_gpu_too(gpu):
    again = Reconstruction(lambda p_RLV: F.normalize(p_RLV.mean(1)[:, :E], dim=-1), 0.1, every=1)
    module = TransformerModule(transformer(), torch.zeros(E), steps=40, reconstruction=again)
    stepped(module, {"tokens": tokens(B, L), "clip": torch.randn(B, E, device=GPU)})
    assert gpu.waits and all("nonzero" in line for line in gpu.waits), (
        "which rows know their embedding is asked, on some batches"
    )


@pytest.mark.parametrize(
    "changes", [{}, {"window": 2, "pivots": 2}, {"style": "gpt2", "sandwich": True, "pb_relax": True}]
)
def test_a_step_of_the_paired_arm_never_waits(gpu, changes):
    model = PairedTransformer(**TEXT, text_drop_prob=0.2, **changes)
    module = PairedModule(model, lambda texts: model.layout.prefix([[1, 2]] * len(texts)), 40)
    stepped(module, {"tokens": tokens(B, L), "caption": ["a"] * B})
    assert not gpu.waits
    with torch.no_grad():
        prefix_BP = model.layout.prefix([[1, 2]] * B).to(GPU, non_blocking=True)
        sample.__wrapped__(model.eval(), prefix_BP, None, range(B), guidance_scale=2.0)
    assert not gpu.waits


def test_a_step_of_what_enlarges_never_waits(gpu):
    module = UpscaleModule(UpscaleTransformer(GRID, K, 32, 2, 2), 40)
    stepped(module, {"tokens": tokens(B, 3, 5), "large": tokens(B, 6, 10)})
    assert not gpu.waits


def test_the_loss_of_a_clip_never_waits(gpu):
    images = {"image_size": 8, "patch_size": 4, "layers": 1, "width": 16, "head_width": 8}
    texts = {"context_length": 8, "vocab_size": 49408, "layers": 1, "width": 16, "heads": 2}
    module = on_gpu(ClipModule({"embed_dim": E, "vision_cfg": images, "text_cfg": texts}, 40))
    for each in module.clip.modules():
        if isinstance(getattr(each, "attn_mask", None), torch.Tensor):
            each.attn_mask = torch.empty(each.attn_mask.shape, device=GPU)
    image_BHWC = torch.zeros(B, 8, 8, 3, dtype=torch.uint8, device=GPU)
    loss, _ = module.contrast({"image": image_BHWC, "caption": ["a red bird"] * B})
    assert loss.device == GPU and not gpu.waits


def test_captions_are_written_on_the_gpu(gpu):
    model = CaptionTransformer(**TEXT)
    encode = model.layout.captions
    stepped(
        CaptionModule(model, lambda texts: encode([[1, 2]] * len(texts)), 40),
        {"tokens": tokens(B, L), "caption": ["a"] * B},
    )
    assert not gpu.waits
    with torch.no_grad():
        assert len(write.__wrapped__(model.eval(), tokens(B, L), range(B))) == B
        assert caption_losses.__wrapped__(model, tokens(B, L), encode([[1, 2]] * B).to(GPU)).device == GPU


def test_bridges_are_on_the_gpu(gpu):
    statistics = {f"{side}_mean": torch.randn(E, device=GPU) for side in ("image", "text")}
    statistics |= {f"{side}_covariance": torch.randn(E, E, device=GPU) for side in ("image", "text")}
    for name in ("none", "mean", "mean_scale", "knn"):
        made_BE = bridges.bridge(name, torch.randn(B, E, device=GPU), statistics, torch.randn(9, E, device=GPU))
        assert made_BE.device == GPU
    assert not gpu.waits


def no_gradients(made, of, *_, **__) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.zeros_like, of if isinstance(of, list | tuple) else [of]))


@pytest.mark.parametrize("quantizer", ["nearest", "moving_average", "simvq", "gumbel", "fsq"])
def test_a_step_of_stage_1_waits_only_where_codes_are_drawn(gpu, monkeypatch, quantizer):
    more = {"levels": [4, 6]} if quantizer == "fsq" else {}
    vqgan = VQGAN(
        image_size=16, codebook_size=24, code_dim=4, channels=32, channel_multipliers=[1, 1], res_blocks=1,
        attention_resolutions=[8], z_channels=8, norm_groups=8, quantizer=quantizer, **more,
    )  # fmt: skip
    searched = quantizer not in ("gumbel", "fsq")
    training = {"continuous_steps": 1, "usage_window": 3, "adversary": Adversary(1, 8, lecam=0.001)}
    training["perceptual"] = on_gpu(LPIPS.random()).distance
    training["perturbation"] = Perturbation(0.5, 0.5, 3) if searched else None
    module = on_gpu(VQGANModule(vqgan, steps=40, lr=1e-3, **training))
    monkeypatch.setattr(torch.autograd, "grad", no_gradients)
    module.manual_backward = lambda loss: None
    image_BHWC, waited = torch.zeros(B, 16, 16, 3, dtype=torch.uint8, device=GPU), []
    for module.batches in range(4):
        module._set_course()
        pictures = module.images({"image": image_BHWC}).chunk(2)
        made, _ = zip(*(module._generate(image_BCHW, True) for image_BCHW in pictures), strict=True)
        module._tend_codebook(made)
        module._discriminate(pictures, made)
        waited.append(len(gpu.waits))
    assert waited[1] == waited[2] == waited[0] < waited[3]  # the codebook starts, and after three batches a window ends
    assert waited[0] == 0 or quantizer == "moving_average"
    module.log = lambda *_, **__: None
    module.on_validation_start()
    module.validation_step({"image": image_BHWC}, 0)
    module.on_validation_epoch_end()
