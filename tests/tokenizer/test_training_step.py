"""What one batch of stage 1 computes: its gradients, in parts or checkpointed, and what it holds in memory."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from clipgen.tokenizer import codes
from clipgen.tokenizer.adversary import Adversary, hinge
from clipgen.tokenizer.compiled import compile_in_place
from clipgen.tokenizer.loss import perceptual_distance
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.vqgan import VQGAN

ARCHITECTURE = dict(
    image_size=16, codebook_size=24, code_dim=4, channels=32, channel_multipliers=[1, 1], res_blocks=1,
    attention_resolutions=[8], z_channels=8, norm_groups=8,
)  # fmt: skip
PIXELS_BHWC = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def perceptual(made_BCHW: Tensor, wanted_BCHW: Tensor) -> Tensor:
    return perceptual_distance(lambda x: [x * 2, x.square()[..., ::2]], made_BCHW, wanted_BCHW)


def trained_on_a_batch(
    make_trainer, network: dict | None = None, checkpointing: bool = False, compiled: bool = False, **changes
) -> VQGANModule:
    """A module after one batch with the GAN on; the gradients are still there."""
    torch.manual_seed(0)
    vqgan = VQGAN(**ARCHITECTURE | (network or {}))
    vqgan.checkpoint_blocks(checkpointing)
    settings = dict(
        steps=1, lr=0.0, gan_lr=0.0, warmup=0, continuous_steps=0, gan_start=0, gan_weight=0.7, clip_norm=1e9,
        perceptual=perceptual, perceptual_weight=0.5, adversary=Adversary(1, 8),
    )  # fmt: skip
    trained = VQGANModule(vqgan, **settings | changes)
    if compiled:
        compile_in_place(vqgan, trained.adversary)
    make_trainer().fit(trained, DataLoader([{"image": PIXELS_BHWC}], batch_size=None))
    assert trained.batches == 1
    return trained


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def test_the_gradients_are_those_of_the_losses_in_one_sum(make_trainer):
    trained = trained_on_a_batch(make_trainer)
    found, found_of_adversary = gradients(trained.vqgan), gradients(trained.adversary)
    vqgan, adversary = trained.vqgan, trained.adversary.requires_grad_(True)
    trained.zero_grad()

    image = trained.images({"image": PIXELS_BHWC})
    made = vqgan(image)
    of_image = (made.image_BCHW - image).abs().mean() + 0.5 * perceptual(made.image_BCHW, image)
    of_adversary = -adversary(made.image_BCHW).mean()
    norms = [torch.autograd.grad(x, vqgan.last_layer, retain_graph=True)[0].norm() for x in (of_image, of_adversary)]
    weight = norms[0] / (norms[1] + 1e-4)
    (of_image + made.loss + 0.7 * weight.detach() * of_adversary).backward()
    torch.testing.assert_close(found, gradients(vqgan), rtol=1e-4, atol=1e-6)

    adversary.zero_grad()
    hinge(adversary(image), adversary(made.image_BCHW.detach())).backward()
    assert found_of_adversary
    torch.testing.assert_close(found_of_adversary, gradients(adversary), rtol=1e-4, atol=1e-6)


def test_a_batch_in_parts_has_the_gradients_of_the_whole(make_trainer):
    whole, parts = (trained_on_a_batch(make_trainer, accumulate=parts, gan_weight=0.0) for parts in (1, 2))
    torch.testing.assert_close(gradients(parts.vqgan), gradients(whole.vqgan), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parts.vqgan.quantizer.used_K, whole.vqgan.quantizer.used_K, rtol=0, atol=0)

    whole, parts = (trained_on_a_batch(make_trainer, accumulate=parts) for parts in (1, 2))
    torch.testing.assert_close(gradients(parts.adversary), gradients(whole.adversary), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_checkpointing_changes_no_bit(make_trainer, precision):
    def train(checkpointing: bool) -> VQGANModule:
        trainer = lambda: make_trainer(precision=precision)  # noqa: E731
        return trained_on_a_batch(
            trainer, {"dropout": 0.1}, checkpointing, lr=1e-3, gan_lr=1e-3, clip_norm=1.0, accumulate=2
        )

    held, made_again = train(False), train(True)
    torch.testing.assert_close(made_again.state_dict(), held.state_dict(), rtol=0, atol=0)
    for network in ("vqgan", "adversary"):
        grads = gradients(getattr(held, network))
        assert grads
        torch.testing.assert_close(gradients(getattr(made_again, network)), grads, rtol=0, atol=0)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor had which was made meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // one.element_size())
        return out


def test_a_step_holds_no_matrix_of_all_distances(make_trainer, monkeypatch):
    monkeypatch.setattr(codes, "CHUNK", 64 * 16_384)
    with Largest() as largest:
        trained_on_a_batch(make_trainer, {"codebook_size": 16_384})
    assert 64 * 16_384 <= largest.numbers < 4 * 8 * 8 * 16_384  # pictures · tokens · codes


def test_checkpointing_holds_less(make_trainer):
    """Between forward and backward pass, in numbers; wide maps, so that weights count for little."""
    vqgan, image = VQGAN(**ARCHITECTURE), torch.rand(2, 3, 64, 64)

    def held() -> int:
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x):
            made = vqgan(image)
        del made
        return sum(x.numel() for x in kept.values())

    whole = held()
    vqgan.checkpoint_blocks(True)
    assert held() < 0.4 * whole


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "alike"), [("32-true", 0.9999), ("bf16-mixed", 0.8)])  # uncompiled bf16: 0.88
def test_compiled_networks_train_alike_and_save_the_same_keys(make_trainer, tmp_path, precision, alike):
    trainer = make_trainer(precision=precision)
    eager = trained_on_a_batch(make_trainer)
    compiled = trained_on_a_batch(lambda: trainer, compiled=True)
    flat = [torch.cat([x.flatten() for x in gradients(one.vqgan).values()]) for one in (compiled, eager)]
    assert torch.cosine_similarity(*flat, dim=0) > alike
    assert list(compiled.state_dict()) == list(eager.state_dict())

    trainer.save_checkpoint(tmp_path / "compiled.ckpt", weights_only=False)
    saved = torch.load(tmp_path / "compiled.ckpt", weights_only=True)["state_dict"]
    eager.load_state_dict(saved)
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(eager.vqgan.encode(image), compiled.vqgan.encode(image))
