"""Training of stage 2 from cached latents: no VQGAN and no CLIP runs in a step.

B batch, L image tokens, V codebook size, E embedding size
"""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipgen.schedule import seed_batch, set_learning_rates, warmup_linear
from clipgen.transformer.condition import centre, noise_to_cosine
from clipgen.transformer.model import Transformer


class TransformerModule(pl.LightningModule):
    """Cross-entropy of the tokens given the centred image embedding, noised to a cosine that the model is told.

    Muon (`torch.optim.Muon`) trains the matrices of the blocks, AdamW everything else. `min_level` is the least
    cosine that is drawn; the levels are uniform between it and 1.
    """

    def __init__(
        self,
        transformer: Transformer,
        image_mean_E: Tensor,
        steps: int,
        lr: float = 3e-3,
        muon_lr: float = 0.02,
        weight_decay: float = 0.01,
        warmup: int = 50,
        min_level: float = 0.5,
        label_smoothing: float = 0.0,
        clip_norm: float = 1.0,
        seed: int = 0,
        settings: dict | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.transformer = transformer
        self.register_buffer("image_mean_E", image_mean_E.float(), persistent=False)
        self.steps, self.lr, self.muon_lr, self.weight_decay, self.warmup = steps, lr, muon_lr, weight_decay, warmup
        self.min_level, self.label_smoothing, self.clip_norm = min_level, label_smoothing, clip_norm
        self.seed, self.settings = seed, settings or {}
        self.batches = 0

    def configure_optimizers(self):
        matrices, decayed, plain = parameter_groups(self.transformer)
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        adamw = torch.optim.AdamW(groups, self.lr, betas=(0.9, 0.95), fused=True)
        muon = torch.optim.Muon(matrices, self.muon_lr, weight_decay=self.weight_decay)
        return [adamw, muon]

    def training_step(self, batch: dict, _: int) -> None:
        seed_batch(self.seed, self.batches, self.global_rank)
        adamw, muon = self.optimizers()
        factor = warmup_linear(self.batches, self.steps, self.warmup)
        set_learning_rates([adamw], self.lr * factor)
        set_learning_rates([muon], self.muon_lr * factor)
        size = len(batch["tokens"])
        level_B = torch.empty(size, device=self.device).uniform_(self.min_level, 1.0)
        loss = self.cross_entropy(batch, level_B, self.label_smoothing)
        adamw.zero_grad()
        muon.zero_grad()
        self.manual_backward(loss)
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), self.clip_norm)
        adamw.step()
        muon.step()
        self.batches += 1
        self.log("train/loss", loss)
        self.log("loss", loss, prog_bar=True, logger=False)
        self.log("lr", self.lr * factor)

    def cross_entropy(self, batch: dict, level_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Nats a token."""
        condition_BE = noise_to_cosine(centre(batch["clip"], self.image_mean_E), level_B)
        logits_BLV = self.transformer(batch["tokens"], condition_BE, level_B)
        return F.cross_entropy(
            logits_BLV.float().flatten(0, 1), batch["tokens"].flatten(), label_smoothing=label_smoothing
        )

    def validation_step(self, batch: dict, _: int) -> None:
        """At level 1, the clean embedding, so that the figure has no noise of its own."""
        level_B = torch.ones(len(batch["tokens"]), device=self.device)
        loss = self.cross_entropy(batch, level_B)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(level_B))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["clipgen"] = {"stage": "transformer", "batches": self.batches, "settings": self.settings}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.batches = checkpoint["clipgen"]["batches"]


def parameter_groups(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(matrices of the blocks, for Muon; other matrices, decayed; embeddings, vectors and the null, not decayed)."""
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if name.startswith("blocks.") and parameter.ndim == 2:
            matrices.append(parameter)
        elif parameter.ndim == 2 and not name.startswith(("embed.", "place_", "conditioner.null")):
            decayed.append(parameter)
        else:
            plain.append(parameter)
    return matrices, decayed, plain
