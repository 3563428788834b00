"""A training step of stage 2 beside minGPT's in float32 and the public implementation's, which encodes in every step.

All train 8 layers × 512 × 8 heads on 8 pictures of 256 tokens, 1,024 codes. Ours goes through Lightning as `clipgen
train` sets it up but for logging and saving: bf16 where the machine has it, with Muon for the matrices (its cost does
not depend on the batch, and 2,048 tokens are few) and again with AdamW alone, as all the peers have. "minGPT" is
taming-transformers' copy of it, float32, torch's AdamW. "public" is its layout (benchmarks/sampling.py) in float32
with its dropout of 0.1, after the VQGAN's encoder and CLIP's ViT-B/32 have read the pictures, as its train_gpt.py does
in every step: 256 px, the shape of vqgan_f16_16384, random weights. Its encoders are timed on two pictures, once, and
counted four times; they are our own VQGAN and open_clip, in float32.

Model FLOPs: 6 for each weight of a matrix product and each position (forward and backward), and 12 · layers · width ·
positions for the attention of each, whose causal half is not taken off. Of the optimizers' products none is counted.
"""

import time
from collections.abc import Callable

import open_clip
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sampling import SMALL, Uncached, minGPT
from table import row, show
from tokenizer import matrix_ceiling
from torch import Tensor
from turns import ROUNDS, WARM_UP, InTurn, Step, waiting

from clipgen.check.ranges import CHOICES
from clipgen.cli.machine import pick_device, pick_precision
from clipgen.config import Trainer
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.model import Transformer
from clipgen.transformer.module import TransformerModule

LAYERS, WIDTH, HEADS = SMALL
CODES, EMBED, BATCH, L = 1024, 512, 8, 256
ENCODED = 2  # pictures on which the public step's encoders are timed


def step_of(model: torch.nn.Module, logits: Callable[[dict[str, Tensor]], Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, betas=(0.9, 0.95), weight_decay=0.01)

    def step(batch: dict[str, Tensor]) -> None:
        loss = F.cross_entropy(logits(batch).flatten(0, 1), batch["tokens"].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def seconds_of_encoders(device: torch.device, wait: Callable[[], None]) -> float:
    """A picture through the VQGAN's encoder and CLIP's image tower."""
    vqgan = VQGAN(
        256, 16_384, 256, 128, (1, 1, 2, 2, 4), 2, (16,), z_channels=256, norm_groups=32, unit_codes=False,
    ).to(device).eval()  # fmt: skip
    clip = open_clip.create_model("ViT-B-32").to(device).eval()
    image_BCHW = torch.rand(ENCODED, 3, 256, 256, device=device)
    began = time.perf_counter()
    with torch.no_grad():
        vqgan.encode(2 * image_BCHW - 1)
        clip.encode_image(F.interpolate(image_BCHW, (224, 224), mode="bilinear", antialias=True))
    wait()
    return (time.perf_counter() - began) / ENCODED


def model_flops(model: Transformer) -> float:
    """Of a step; the positions are the prefix's and the tokens'."""
    positions = BATCH * (L + model.n_prefix - 1)
    weights = sum(p.numel() for p in (*model.blocks.parameters(), *model.head.parameters()) if p.ndim == 2)
    return positions * (6 * weights + 12 * LAYERS * WIDTH * (L + model.n_prefix - 1))


def rows() -> list[dict]:
    device = pick_device("auto")
    wait = waiting(device)
    torch.manual_seed(0)
    mingpt = minGPT(SMALL, CODES).to(device).train()
    public = Uncached(*SMALL, CODES).to(device).train()
    peers = {
        "minGPT, fp32": step_of(mingpt, lambda batch: mingpt(batch["tokens"])[0]),
        "public, its Transformer alone": step_of(public, lambda b: public(b["tokens"][:, :-1], b["clip"])),
    }
    batch = {
        "tokens": torch.randint(CODES, (BATCH, L)),
        "clip": F.normalize(torch.randn(BATCH, EMBED), dim=-1),
    }
    encoding, (ceiling, product) = BATCH * seconds_of_encoders(device, wait), matrix_ceiling(device)
    found = []
    for optimizer in CHOICES["transformer.train.optimizer"]:
        network = Transformer((16, 16), CODES, EMBED, WIDTH, LAYERS, HEADS)
        flops = model_flops(network)
        in_turn = InTurn(peers, wait)
        train(TransformerModule(network, torch.zeros(EMBED), steps=1_000_000, optimizer=optimizer), batch, in_turn)
        took = in_turn.median("ours")
        of_peers = {name: in_turn.median(name) for name in peers}
        of_peers["public, VQGAN and CLIP in the step"] = of_peers["public, its Transformer alone"] + encoding
        tokens, limit = BATCH * L, BATCH * L * ceiling / flops
        for name, seconds in of_peers.items():
            found.append(row(f"train 8×512 {optimizer}, {name}", "tok/s", tokens / took, tokens / seconds, name, limit))
        rate, most = flops / took / 1e12, ceiling / 1e12
        found.append(row(f"model FLOPs, {optimizer}", "TFLOP/s", rate, most, product, most))
    return found


def train(module: TransformerModule, batch: dict[str, Tensor], in_turn: InTurn) -> None:
    pl.Trainer(
        max_epochs=1, accelerator="auto", devices=1, precision=pick_precision(Trainer()), callbacks=[in_turn],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, torch.utils.data.DataLoader([batch] * (WARM_UP + ROUNDS), batch_size=None))  # fmt: skip


if __name__ == "__main__":
    show(rows, f"Training stage 2, {BATCH} × {L} tokens")
