"""A training step of the tokenizer, GAN on, beside taming-transformers'; what it makes of the machine; its memory.

taming's step is its own `VQModel.training_step` in float32, driven as its Lightning (1.0) did: the autoencoder's pass,
then the discriminator's with a new forward pass, each time only that optimizer's parameters requiring gradients. Of its
code only `taming.main`, which no longer imports, is left out, and LPIPS has the same random weights as ours instead of
downloaded ones. "plain fp32" is our networks with torch's own layers, written down as the losses are: one sum.
"""

import re
import subprocess
import sys
import time
import types
from functools import partial
from pathlib import Path
from unittest import mock

import pytorch_lightning as pl
import torch
from table import row, show
from taming.modules.diffusionmodules.model import AttnBlock, ResnetBlock
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from turns import ROUNDS, WARM_UP, InTurn, Step, waiting

from clipgen.bf16 import bf16_pays
from clipgen.cli.machine import pick_device, pick_precision
from clipgen.config import Trainer
from clipgen.tokenizer.adversary import Adversary
from clipgen.tokenizer.blocks import AttentionBlock, ResBlock
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.norm import GroupNorm
from clipgen.tokenizer.perceptual import LPIPS
from clipgen.tokenizer.vqgan import VQGAN

CHANNELS, MULTIPLIERS, RES_BLOCKS, CODES, CODE_DIM, DOWNSAMPLE = 64, (1, 1, 2, 2, 4), 2, 1024, 256, 16
SIDE, BATCH = 128, 4
LR, BETAS = 4.5e-6 * BATCH, (0.5, 0.9)  # taming's


def make_module(side: int) -> VQGANModule:
    torch.manual_seed(0)
    vqgan = VQGAN(
        side, CODES, CODE_DIM, CHANNELS, MULTIPLIERS, RES_BLOCKS, (side // DOWNSAMPLE,), z_channels=CODE_DIM,
        norm_groups=32, unit_codes=False,
    )  # fmt: skip
    return VQGANModule(
        vqgan, steps=1_000_000, lr=LR, betas=BETAS, continuous_steps=0, perceptual=LPIPS.random().distance,
        adversary=Adversary(3, 64, "batch"), gan_lr=LR,
    )  # fmt: skip


class Flops(TorchDispatchMode):
    """Of the matrix products and convolutions, forward and backward (FlopCounterMode takes no inner gradients)."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        if count := flop_registry.get(function.overloadpacket):
            self.total += count(*args, **kwargs or {}, out_val=out)
        return out


class CountedInTurn(InTurn):
    """And counts the work of ours in the first batch, which is for warming up."""

    def __init__(self, *each):
        super().__init__(*each)
        self.work = Flops()

    def on_train_batch_start(self, trainer, module, batch, number) -> None:
        if number == 0:
            self.work.__enter__()
        super().on_train_batch_start(trainer, module, batch, number)

    def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
        if number == 0:
            self.work.__exit__(None, None, None)
        super().on_train_batch_end(trainer, module, outputs, batch, number)


def pixels(side: int) -> Tensor:
    return torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8)


def train(module: VQGANModule, side: int, batches: int, *callbacks: pl.Callback) -> None:
    """Batches of noise through the Trainer, as `clipgen train` sets it up but for logging and saving."""
    trainer = pl.Trainer(
        max_epochs=1, accelerator="auto", devices=1, precision=pick_precision(Trainer()), callbacks=list(callbacks),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([{"image": pixels(side)}] * batches, batch_size=None))


def taming_step(device: torch.device, side: int) -> Step:
    lpips = LPIPS.random().state_dict()
    sys.modules["taming.main"] = types.SimpleNamespace(instantiate_from_config=lambda made: made)
    from taming.models.vqgan import VQModel
    from taming.modules.losses import lpips as module
    from taming.modules.losses.vqperceptual import VQLPIPSWithDiscriminator

    vgg16 = partial(module.models.vgg16, weights=None)
    no_download = (
        mock.patch.object(module.models, "vgg16", lambda pretrained: vgg16()),
        mock.patch.object(module.LPIPS, "load_from_pretrained", lambda self: self.load_state_dict(lpips)),
    )
    with no_download[0], no_download[1]:
        loss = VQLPIPSWithDiscriminator(disc_start=0, disc_weight=0.8)
    shape = {
        "ch": CHANNELS, "out_ch": 3, "ch_mult": MULTIPLIERS, "num_res_blocks": RES_BLOCKS, "in_channels": 3,
        "attn_resolutions": (side // DOWNSAMPLE,), "resolution": side, "z_channels": CODE_DIM, "double_z": False,
        "dropout": 0.0,
    }  # fmt: skip
    model = VQModel(shape, loss, CODES, CODE_DIM).to(device).train()
    model.learning_rate = LR
    optimizers, _ = model.configure_optimizers()

    def step(batch: dict[str, Tensor]) -> None:
        batch = {"image": batch["image"] / 127.5 - 1}
        for number, optimizer in enumerate(optimizers):
            model.requires_grad_(False)
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.requires_grad_(True)
            loss = model.training_step(batch, 0, number)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def plain_step(device: torch.device) -> Step:
    distance = LPIPS.random().to(device).distance
    module = make_module(SIDE).to(device, memory_format=torch.contiguous_format)
    vqgan, adversary = module.vqgan, module.adversary
    plain = {GroupNorm: nn.GroupNorm, ResBlock: ResnetBlock, AttentionBlock: AttnBlock}
    for layer in module.modules():
        layer.__class__ = plain.get(type(layer), type(layer))
    optimizers = [torch.optim.Adam(network.parameters(), LR, BETAS) for network in (vqgan, adversary)]

    def step(batch: dict[str, Tensor]) -> None:
        image_BCHW = (batch["image"].permute(0, 3, 1, 2) / 127.5 - 1).contiguous()
        adversary.requires_grad_(False)
        made = vqgan(image_BCHW)
        of_image = (made.image_BCHW - image_BCHW).abs().mean() + distance(made.image_BCHW, image_BCHW)
        of_adversary = adversary.generator_loss(made.image_BCHW)
        losses = (of_image, of_adversary)
        norms = [torch.autograd.grad(loss, vqgan.last_layer, retain_graph=True)[0].norm() for loss in losses]
        weight = (norms[0] / (norms[1] + 1e-4)).clamp(max=1e4).detach()
        optimizers[0].zero_grad()
        (of_image + made.loss + 0.8 * weight * of_adversary).backward()
        optimizers[0].step()
        adversary.requires_grad_(True)
        loss, _ = adversary.discriminator_loss(image_BCHW, made.image_BCHW.detach())
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

    return step


def matrix_ceiling(device: torch.device, size: int = 2048) -> tuple[float, str]:
    """FLOP/s of matrix products, the best of twenty, in bf16 or where that does not pay in fp32; and which."""
    dtype, name = (torch.bfloat16, "bf16") if bf16_pays(device.type) else (torch.float32, "fp32")
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(20):
        began = time.perf_counter()
        float((a @ b)[0, 0])  # waits for it
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times), f"{name} matrix product {size}³"


def peak_memory(who: str) -> float:
    """Bytes a process of its own needs for two batches at twice the side, everything imported counted."""
    done = subprocess.run(
        [sys.executable, __file__, who], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return float(done.stdout.split()[-1])


def run_and_tell(who: str) -> None:
    device = pick_device("auto")
    if who == "taming":
        step = taming_step(device, 2 * SIDE)
        for _ in range(2):
            step({"image": pixels(2 * SIDE).to(device)})
    else:
        module = make_module(2 * SIDE)
        module.vqgan.checkpoint_blocks(who == "checkpointing")
        train(module, 2 * SIDE, 2)
    print(torch.cuda.max_memory_allocated() if device.type == "cuda" else high_water())


def high_water() -> int:
    """Most bytes of memory so far; ru_maxrss would be at least that of the process which started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def rows() -> list[dict]:
    device = pick_device("auto")
    peers = {"taming": taming_step(device, SIDE), "plain fp32": plain_step(device)}
    in_turn = CountedInTurn(peers, waiting(device))
    train(make_module(SIDE), SIDE, WARM_UP + ROUNDS, in_turn)
    (ceiling, product), took = matrix_ceiling(device), in_turn.median("ours")
    shape = f"{SIDE} px, batch {BATCH}"
    found = [row(f"step {shape}, {name}", "img/s", BATCH / took, BATCH / in_turn.median(name), name) for name in peers]
    found.append(
        row("matrix work of the step", "TFLOP/s", in_turn.work.total / took / 1e12, ceiling / 1e12,
            product, ceiling / 1e12)
    )  # fmt: skip
    plain, checkpointing, taming = (peak_memory(who) / 1e6 for who in ("plain", "checkpointing", "taming"))
    shape = f"{2 * SIDE} px, batch {BATCH}"
    found.append(row(f"peak memory {shape}", "MB", plain, taming, "taming"))
    found.append(row(f"peak memory {shape}, checkpointing", "MB", checkpointing, plain, "without"))
    return found


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in ("plain", "checkpointing", "taming"):
        run_and_tell(sys.argv[1])
    else:
        show(rows, "Training the tokenizer")
