"""Training of stage 2 from cached latents: no VQGAN and no CLIP runs in a step, but for the reconstruction loss.

B batch, L image tokens, V codebook size, E embedding size
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from clipgen.ranks import mean_over_ranks, world_size
from clipgen.schedule import SCHEDULES, seed_batch, set_learning_rates
from clipgen.transformer.condition import centre, noise_to_cosine
from clipgen.transformer.execution import shard
from clipgen.transformer.loss import Reconstruction, embedding_loss, one_code_each, token_loss
from clipgen.transformer.model import CausalTransformer, Transformer
from clipgen.transformer.optim import make_optimizers
from clipgen.transformer.order import draw_orders, random_share


class TokenModule(pl.LightningModule, ABC):
    """What trainings of a model of image tokens share; one says by `draw` and `losses` what is learnt of a batch.

    A batch is worked off in `accumulate` parts. Batch b draws by (seed, b), so that a resumed training is exact.
    """

    stage: str

    def __init__(
        self,
        transformer: CausalTransformer,
        steps: int,
        optimizer: str = "muon",
        lr: float = 3e-3,
        muon_lr: float = 0.02,
        weight_decay: float = 0.01,
        warmup: int = 50,
        schedule: str = "linear",
        lr_final: float = 0.02,
        accumulate: int = 1,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        clip_norm: float = 1.0,
        seed: int = 0,
        settings: dict | None = None,
        inputs: dict[str, str] | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.transformer = transformer
        self.aux: nn.Module | None = None
        self.steps, self.optimizer, self.lr, self.muon_lr, self.weight_decay = (
            steps, optimizer, lr, muon_lr, weight_decay,
        )  # fmt: skip
        self.warmup, self.factor, self.lr_final, self.accumulate = warmup, SCHEDULES[schedule], lr_final, accumulate
        self.label_smoothing, self.z_loss, self.clip_norm = label_smoothing, z_loss, clip_norm
        self.seed, self.settings, self.inputs = seed, settings or {}, inputs or {}
        self.batches = 0

    @abstractmethod
    def draw(self, batch: dict) -> dict[str, Tensor]:
        """The arguments of `losses`: a rank has the rows that it would have of one rank's larger batch."""

    @abstractmethod
    def losses(self, **drawn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and its parts to log."""

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # trainer.strategy=fsdp
            shard(self.transformer, self.aux, self.device_mesh["data_parallel"])

    def configure_optimizers(self):
        beside = [] if self.aux is None else self.aux.parameters()
        rates, float32 = (self.lr, self.muon_lr), self.trainer.precision == "32-true"
        return make_optimizers(self.transformer, self.optimizer, *rates, self.weight_decay, beside, float32)

    def loss_scale(self) -> float:
        """By how much gradients are too large before an optimizer's step: in float16 Lightning scales the loss."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler.get_scale() if scaler else 1.0

    def training_step(self, batch: dict, _: int) -> None:
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        factor = self.factor(self.batches, self.steps, self.warmup, self.lr_final)
        for optimizer, lr in zip(optimizers, (self.lr, self.muon_lr), strict=False):
            set_learning_rates([optimizer], lr * factor)
            optimizer.zero_grad()
        drawn = self.draw(batch)
        logged = []
        for part in zip(*(value.chunk(self.accumulate) for value in drawn.values()), strict=True):
            loss, of_part = self.losses(**dict(zip(drawn, part, strict=True)))
            self.manual_backward(loss / self.accumulate)
            logged.append(of_part)
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm * self.loss_scale())
        for optimizer in optimizers:
            optimizer.step()
        self.batches += 1
        means = {name: mean_over_ranks(torch.stack([part[name] for part in logged]).mean()) for name in logged[0]}
        self.log_dict({f"train/{name}": value for name, value in means.items()})
        self.log("loss", means["loss"], prog_bar=True, logger=False)
        self.log("lr", self.lr * factor)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        kept = {"batches": self.batches, "settings": self.settings, "inputs": self.inputs}
        checkpoint["clipgen"] = {"stage": self.stage, **kept}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.batches = checkpoint["clipgen"]["batches"]


class TransformerModule(TokenModule):
    """Cross-entropy of the tokens given the centred image embedding, noised to a cosine that the model is told.

    `min_level` is the least cosine that is drawn; the levels are uniform between it and 1. With `rar` the tokens come
    in random orders, until between the shares `rar_anneal` of the training these give way to raster order, in half of
    the rows where the Transformer is to know `any_order`. With `aux_weight`, a linear head on the mean of the last
    hidden states has to tell the embedding; `reconstruction` asks it of the decoded image. `training` is what
    `TokenModule` takes.
    """

    stage = "transformer"

    def __init__(
        self,
        transformer: Transformer,
        image_mean_E: Tensor,
        steps: int,
        min_level: float = 0.9,
        rar: bool = False,
        rar_anneal: Sequence[float] = (0.5, 0.75),
        aux_weight: float = 0.0,
        reconstruction: Reconstruction | None = None,
        **training: Any,
    ):
        super().__init__(transformer, steps, **training)
        self.register_buffer("image_mean_E", image_mean_E.float(), persistent=False)
        width, embed_dim = transformer.embed.embedding_dim, len(image_mean_E)
        self.aux = nn.Linear(width, embed_dim, bias=False) if aux_weight else None
        self.min_level, self.rar, self.rar_anneal = min_level, rar, rar_anneal
        self.aux_weight, self.reconstruction = aux_weight, reconstruction

    def draw(self, batch: dict) -> dict[str, Tensor]:
        """The arguments of `losses`: a rank has the rows that it would have of one rank's larger batch."""
        seed_batch(self.seed, self.batches)
        rank, world = self.global_rank, world_size()
        size = len(batch["tokens"]) * world
        level_B = torch.empty(size, device=self.device).uniform_(self.min_level, 1.0)[rank::world]
        noise_BE = torch.randn(size, batch["clip"].shape[1], device=self.device)[rank::world]
        dropped_B = torch.rand(size, device=self.device)[rank::world] < self.transformer.conditioner.drop_prob
        more = {}
        if self.transformer.gft:  # rows without a condition have no guidance
            more["beta_B"] = torch.rand(size, device=self.device)[rank::world].masked_fill(dropped_B, 1.0)
        if self.rar:
            last = 0.5 if self.transformer.any_order else 0.0
            share = random_share(self.batches / self.steps, self.rar_anneal, last)
            if share:
                more["order_BL"] = draw_orders(size, batch["tokens"].shape[1], share, self.device)[rank::world]
        seed_batch(self.seed, self.batches, 1 + rank)  # of what is drawn from here on: dropout
        clean_BE = centre(batch["clip"], self.image_mean_E)
        return more | {
            "tokens_BL": batch["tokens"],
            "clean_BE": clean_BE,
            "condition_BE": noise_to_cosine(clean_BE, level_B, noise_BE),
            "level_B": level_B,
            "dropped_B": dropped_B,
        }

    def losses(
        self, tokens_BL, clean_BE, condition_BE, level_B, dropped_B, order_BL=None, beta_B=None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and its parts to log."""
        inputs = tokens_BL, condition_BE, level_B, order_BL
        features_BLD, logits_BLV = self.transformer.outputs(*inputs, beta_B, dropped_B)
        if beta_B is not None:
            beta_B11 = beta_B[:, None, None]
            logits_BLV = beta_B11 * logits_BLV + (1 - beta_B11) * self.null_logits(*inputs)
        wanted_BL = tokens_BL if order_BL is None else tokens_BL.gather(1, order_BL)
        loss = token_loss(logits_BLV, wanted_BL, self.label_smoothing, self.z_loss)
        logged = {"loss": loss.detach()}
        if self.aux is not None:
            aux = embedding_loss(self.aux(features_BLD.mean(1)), clean_BE)
            loss, logged["aux"] = loss + self.aux_weight * aux, aux.detach()
        if (again := self.reconstruction) and self.batches % again.every == 0:
            lost = self.lost_embedding(again, logits_BLV, clean_BE, dropped_B, order_BL)
            loss, logged["reconstruction"] = loss + again.weight * lost, lost.detach()
        return loss, logged

    def lost_embedding(self, again: Reconstruction, logits_BLV, clean_BE, dropped_B, order_BL) -> Tensor:
        """The second loss, of the first rows that knew their embedding; 0 where none did."""
        row_R = (~dropped_B).nonzero()[: again.rows(len(dropped_B)), 0]
        if not len(row_R):
            return logits_BLV.new_zeros(())
        logits_RLV = logits_BLV[row_R]
        if order_BL is not None:  # back to where the tokens stand
            logits_RLV = logits_RLV.take_along_dim(order_BL[row_R].argsort(1)[..., None], 1)
        made_RE = again.embed(one_code_each(logits_RLV, again.estimator))
        return embedding_loss(centre(made_RE, self.image_mean_E), clean_BE[row_R])

    @torch.no_grad()
    def null_logits(self, tokens_BL, condition_BE, level_B, order_BL) -> Tensor:
        """What guidance-free training (arXiv 2501.15420) adds, without dropout and gradients."""
        self.transformer.eval()
        all_B = torch.ones(len(tokens_BL), dtype=torch.bool, device=self.device)
        logits_BLV = self.transformer.outputs(tokens_BL, condition_BE, level_B, order_BL, dropped_B=all_B)[1]
        self.transformer.train()
        return logits_BLV

    def validation_step(self, batch: dict, _: int) -> None:
        """At level 1, the clean embedding, so that the figure has no noise of its own."""
        level_B = torch.ones(len(batch["tokens"]), device=self.device)
        condition_BE = centre(batch["clip"], self.image_mean_E)
        loss = token_loss(self.transformer.outputs(batch["tokens"], condition_BE, level_B)[1], batch["tokens"])
        self.log("val/loss", loss, prog_bar=True, batch_size=len(level_B))
