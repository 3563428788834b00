"""Training of the paired arm, and of captioning, from cached latents and their captions.

B batch, P prefix tokens, L image tokens, S tokens of a caption, W pieces and commands
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clipgen.paired.captioner import CaptionTransformer
from clipgen.paired.loss import counted, mean_where, means_of_rows, weighted
from clipgen.paired.model import PairedTransformer
from clipgen.ranks import world_size
from clipgen.schedule import seed_batch
from clipgen.transformer.loss import token_losses
from clipgen.transformer.module import TokenModule
from clipgen.transformer.sight import draw_pivots


class PairedModule(TokenModule):
    """Cross-entropy of a caption's pieces and of its image's tokens, weighted by the two scales.

    `encode` takes captions to their prefixes (B, P). A text is left out with the model's `text_drop_prob`: the row has
    the prefix of an empty text, which is not trained on, and guidance leads away from it. `training` is what
    `TokenModule` takes.
    """

    stage = "paired"

    def __init__(
        self,
        transformer: PairedTransformer,
        encode: Callable[[Sequence[str]], Tensor],
        steps: int,
        txt_loss_scale: float = 1.0,
        img_loss_scale: float = 1.0,
        **training: Any,
    ):
        super().__init__(transformer, steps, **training)
        self.encode = encode
        self.txt_loss_scale, self.img_loss_scale = txt_loss_scale, img_loss_scale

    def draw(self, batch: dict) -> dict[str, Tensor]:
        seed_batch(self.seed, self.batches)
        rank, world = self.global_rank, world_size()
        size = len(batch["tokens"]) * world
        dropped_B = torch.rand(size, device=self.device)[rank::world] < self.transformer.text_drop_prob
        more = {}
        if self.transformer.window:
            shape = size, len(self.transformer.blocks), batch["tokens"].shape[1] - 1
            more["pivot_BYQ"] = draw_pivots(shape, self.transformer.pivots, device=self.device)[rank::world]
        seed_batch(self.seed, self.batches, 1 + rank)  # of what is drawn from here on: dropout
        text_BP = self.encode(batch["caption"]).to(self.device, non_blocking=True)
        null_1P = self.encode([""]).to(self.device, non_blocking=True)
        return more | {
            "tokens_BL": batch["tokens"],
            "text_BP": torch.where(dropped_B[:, None], null_1P, text_BP),
            "dropped_B": dropped_B,
        }

    def losses(self, tokens_BL, text_BP, dropped_B, pivot_BYQ=None) -> tuple[Tensor, dict[str, Tensor]]:
        text_BT, counts_BT, image_BL = self._losses(tokens_BL, text_BP, pivot_BYQ, self.label_smoothing, self.z_loss)
        counts_BT = counts_BT & ~dropped_B[:, None]
        loss = weighted(text_BT, counts_BT, image_BL, self.txt_loss_scale, self.img_loss_scale)
        logged = {"loss": loss, "image": image_BL.mean(), "text": mean_where(text_BT, counts_BT)}
        return loss, {name: value.detach() for name, value in logged.items()}

    def _losses(self, tokens_BL, text_BP, pivot_BYQ=None, *smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
        """Nats of prefix tokens 1 … P - 1, which of them count, nats of the image's tokens."""
        text_logits_BTW, image_logits_BLV = self.transformer.outputs(tokens_BL, text_BP, pivot_BYQ)
        layout = self.transformer.layout
        text_BT = token_losses(text_logits_BTW, text_BP[:, 1:] - layout.codebook_size, *smoothing)
        counts_BT = counted(text_BP, layout.command("PAD"), layout.command("BASE"))
        return text_BT, counts_BT, token_losses(image_logits_BLV, tokens_BL, *smoothing)

    def validation_step(self, batch: dict, _: int) -> None:
        """`val/loss` is the image's alone, in nats a token, as that of the other arms."""
        text_BP = self.encode(batch["caption"]).to(self.device, non_blocking=True)
        text_BT, counts_BT, image_BL = self._losses(batch["tokens"], text_BP)
        rows = len(image_BL)
        self.log("val/loss", image_BL.mean(), prog_bar=True, batch_size=rows)
        self.log("val/text", mean_where(text_BT, counts_BT), batch_size=max(1, int(counts_BT.sum())))


class CaptionModule(TokenModule):
    """Cross-entropy of a caption's pieces, and of what ends it, given the image; nothing of the image is learnt.

    `encode` takes captions to `Layout.captions` (B, S). `training` is what `TokenModule` takes.
    """

    stage = "caption"

    def __init__(
        self, transformer: CaptionTransformer, encode: Callable[[Sequence[str]], Tensor], steps: int, **training: Any
    ):
        super().__init__(transformer, steps, **training)
        self.encode = encode

    def draw(self, batch: dict) -> dict[str, Tensor]:
        seed_batch(self.seed, self.batches, 1 + self.global_rank)  # dropout
        text_BS = self.encode(batch["caption"]).to(self.device, non_blocking=True)
        return {"tokens_BL": batch["tokens"], "text_BS": text_BS}

    def losses(self, tokens_BL, text_BS) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over rows of a row's mean, so that parts and ranks have the loss of the whole."""
        loss = means_of_rows(*self._losses(tokens_BL, text_BS, self.label_smoothing, self.z_loss)).mean()
        return loss, {"loss": loss.detach()}

    def validation_step(self, batch: dict, _: int) -> None:
        """`val/loss` is in nats a token."""
        text_BS = self.encode(batch["caption"]).to(self.device, non_blocking=True)
        loss = means_of_rows(*self._losses(batch["tokens"], text_BS)).mean()
        self.log("val/loss", loss, prog_bar=True, batch_size=len(text_BS))

    def _losses(self, tokens_BL, text_BS, *smoothing: float) -> tuple[Tensor, Tensor]:
        """Nats of tokens 1 … S - 1 of a caption, and which of them count."""
        layout, wanted_BT = self.transformer.layout, text_BS[:, 1:]
        logits_BTW = self.transformer.outputs(tokens_BL, text_BS)
        losses_BT = token_losses(logits_BTW, wanted_BT - layout.codebook_size, *smoothing)
        return losses_BT, wanted_BT != layout.command("PAD")
