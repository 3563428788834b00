"""Training of the Transformer that enlarges, from cached tokens of pictures at two sizes.

B batch, h w token grid of the small picture, S tokens of the small window, L = 4·S of the large one
"""

import torch
from torch import Tensor

from clipgen.ranks import world_size
from clipgen.schedule import seed_batch
from clipgen.transformer.loss import token_loss
from clipgen.transformer.module import TokenModule
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscale.windows import SCALE, cut, parts


class UpscaleModule(TokenModule):
    """Cross-entropy of a window of the large picture given the same window of the small one, at a drawn place."""

    stage = "super"
    transformer: UpscaleTransformer

    def draw(self, batch: dict) -> dict[str, Tensor]:
        seed_batch(self.seed, self.batches)
        rank, world = self.global_rank, world_size()
        small_Bhw, large_BHW = batch["tokens"], batch["large"]
        room = [side - window + 1 for side, window in zip(small_Bhw.shape[1:], self.transformer.small, strict=True)]
        uniform_B2 = torch.rand(len(small_Bhw) * world, 2, device=self.device)[rank::world]
        seed_batch(self.seed, self.batches, 1 + rank)  # of what is drawn from here on: dropout
        places_B2 = torch.stack(
            [uniform_B * most for uniform_B, most in zip(uniform_B2.T, room, strict=True)], 1
        ).long()
        return {
            "small_BS": windows_at(small_Bhw, places_B2, self.transformer.small),
            "large_BL": windows_at(large_BHW, SCALE * places_B2, self.transformer.grid),
        }

    def losses(self, small_BS: Tensor, large_BL: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = token_loss(self.transformer.outputs(large_BL, small_BS), large_BL, self.label_smoothing, self.z_loss)
        return loss, {"loss": loss.detach()}

    def validation_step(self, batch: dict, _: int) -> None:
        """In nats a token over all windows that a whole picture is enlarged by, and the share of tokens told right."""
        small_Bhw, large_BHW = batch["tokens"], batch["large"]
        window, grid = self.transformer.small, self.transformer.grid
        for row in parts(small_Bhw.shape[1], window[0]):
            for column in parts(small_Bhw.shape[2], window[1]):
                large_BL = cut(large_BHW, SCALE * row.start, SCALE * column.start, grid)
                logits_BLV = self.transformer.outputs(large_BL, cut(small_Bhw, row.start, column.start, window))
                rows = len(large_BL)
                self.log("val/loss", token_loss(logits_BLV, large_BL), prog_bar=True, batch_size=rows)
                right = (logits_BLV.argmax(-1) == large_BL).float().mean()
                self.log("val/accuracy", right, batch_size=rows)


def windows_at(token_Bhw: Tensor, places_B2: Tensor, window: tuple[int, int]) -> Tensor:
    """A window of each picture, its upper left corner at `places_B2` (row, column): (B, tokens), row-major."""
    rows_Ba = places_B2[:, :1] + torch.arange(window[0], device=token_Bhw.device)
    columns_Bb = places_B2[:, 1:] + torch.arange(window[1], device=token_Bhw.device)
    every_B11 = torch.arange(len(token_Bhw), device=token_Bhw.device)[:, None, None]
    return token_Bhw[every_B11, rows_Ba[:, :, None], columns_Bb[:, None, :]].flatten(1)
