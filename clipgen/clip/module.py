"""Training of a small CLIP for a domain that pretrained ones do not know (Radford et al., arXiv 2103.00020).

B batch, E embedding size
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from clipgen.checkpoint import save_weights
from clipgen.clip.frozen import plain_attention
from clipgen.data.atomic import replacing, write_json
from clipgen.data.transforms import to_model_range
from clipgen.ranks import gather_rows
from clipgen.schedule import set_learning_rates, warmup_linear

MAX_LOGIT_SCALE = 100.0


class ClipModule(pl.LightningModule):
    """Symmetric cross-entropy over a batch of (image, caption) pairs. `architecture` is open_clip's model config.

    A fixed `logit_scale` of 100 keeps the modality gap that large CLIPs have; learned, it begins at 14 (the gap's part
    in it: arXiv 2203.02053).
    """

    def __init__(
        self,
        architecture: dict,
        steps: int,
        lr: float = 2e-3,
        weight_decay: float = 0.1,
        warmup: int = 100,
        logit_scale: float | None = None,
        settings: dict | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.architecture = architecture
        self.clip = CLIP(**architecture)
        self.clip.visual.to(memory_format=torch.channels_last)
        if logit_scale is not None:
            with torch.no_grad():
                self.clip.logit_scale.fill_(math.log(logit_scale))
            self.clip.logit_scale.requires_grad_(False)
        self.tokenizer = SimpleTokenizer(context_length=architecture["text_cfg"]["context_length"])
        self.steps, self.lr, self.weight_decay, self.warmup = steps, lr, weight_decay, warmup
        self.settings = settings or {}
        self.batches = 0

    def configure_optimizers(self):
        trained = [p for p in self.clip.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.lr, betas=(0.9, 0.98), fused=True)

    def training_step(self, batch: dict, _: int) -> None:
        optimizer = self.optimizers()
        factor = warmup_linear(self.batches, self.steps, self.warmup)
        set_learning_rates([optimizer], self.lr * factor)
        with plain_attention(self.device):
            loss, accuracy = self.contrast(batch, gather_rows)
            optimizer.zero_grad()
            self.manual_backward(loss)
        optimizer.step()
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        self.batches += 1
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy, "lr": self.lr * factor})
        self.log("loss", loss, prog_bar=True, logger=False)

    def contrast(self, batch: dict, gather: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(Loss, share of pictures whose own caption is the nearest); `gather` brings the rows of other ranks."""
        image_BCHW = (to_model_range(batch["image"])).contiguous(memory_format=torch.channels_last)
        tokens_BT = self.tokenizer(batch["caption"]).to(self.device, non_blocking=True)
        image_BE = F.normalize(self.clip.encode_image(image_BCHW).float(), dim=-1)
        text_BE = F.normalize(self.clip.encode_text(tokens_BT).float(), dim=-1)
        if gather:
            image_BE, text_BE = gather(image_BE), gather(text_BE)
        logits_BB = self.clip.logit_scale.exp() * image_BE @ text_BE.T
        own_B = torch.arange(len(logits_BB), device=self.device)
        loss = (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
        return loss, (logits_BB.argmax(1) == own_B).float().mean()

    def validation_step(self, batch: dict, _: int) -> None:
        with plain_attention(self.device):
            loss, accuracy = self.contrast(batch)
        values = {"val/loss": loss, "val/accuracy": accuracy}
        self.log_dict(values, prog_bar=True, batch_size=len(batch["image"]))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["clipgen"] = {"stage": "clip", "batches": self.batches, "settings": self.settings}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.batches = checkpoint["clipgen"]["batches"]


def save_open_clip(module: ClipModule, folder: Path, captions: list[str]) -> None:
    """Write open_clip's own folder format, in float16, and some captions that give the mean of its text side.

    `open_clip.create_model("local-dir:FOLDER")` loads it. Pixels were shown to it in [-1, 1]: mean and std are 0.5.
    """
    half = {name: tensor.half() for name, tensor in module.clip.state_dict().items() if tensor.is_floating_point()}
    rest = {name: tensor for name, tensor in module.clip.state_dict().items() if not tensor.is_floating_point()}
    save_weights(half | rest, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    write_json(folder / "open_clip_config.json", {"model_cfg": module.architecture, "preprocess_cfg": preprocess})
    write_json(folder / "training.json", json.loads(json.dumps(module.settings)))
    with replacing(folder / "captions.txt") as path:
        path.write_text("\n".join(captions) + "\n", encoding="utf-8")
