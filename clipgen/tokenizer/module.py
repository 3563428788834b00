"""Training of stage 1: autoencoder and adversary in turn on one forward pass, counted in batches.

B batch, H W pixels, L tokens of a picture, D code size, K codebook size
"""

from collections.abc import Callable, Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor

from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.ranks import mean_over_ranks
from clipgen.schedule import seed_batch, set_learning_rates, warmup_linear
from clipgen.tokenizer.adversary import Adversary
from clipgen.tokenizer.codes import Perturbation, occurrences, perplexity, usage
from clipgen.tokenizer.loss import adaptive_weight, pixel_distance, psnr
from clipgen.tokenizer.quantize import Gumbel
from clipgen.tokenizer.upkeep import end_window, start_codebook, tend_codebook
from clipgen.tokenizer.vqgan import VQGAN, Reconstruction

# pictures made, pictures wanted → distance, with gradients to the first; a function, so that what it holds is not saved
Perceptual = Callable[[Tensor, Tensor], Tensor]


class VQGANModule(pl.LightningModule):
    """Pixels + `perceptual` + quantizer + (from batch `gan_start` on) a hinge GAN with adaptive weight.

    The first `continuous_steps` batches are not quantised; then the codebook is drawn from the encoder's outputs. With
    `restart_dead`, codes unused over `usage_window` batches are drawn again, until the last quarter of the training.
    The GAN's weight rises over `gan_warmup` batches. A batch is worked off in `accumulate` parts, each with an
    adaptive weight of its own. `perturbation` is what the decoder's tokens suffer from batch 0 to `steps` / 5, then
    ever less, down to half at 3/5. A Gumbel quantizer's temperature falls from the first to the last number of
    `gumbel_temperature`, by the same factor each batch.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        steps: int,
        lr: float,
        warmup: int = 50,
        lr_final: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.95),
        accumulate: int = 1,
        continuous_steps: int = 100,
        usage_window: int = 50,
        restart_dead: bool = True,
        pixel_loss: str = "l1",
        perceptual: Perceptual | None = None,
        perceptual_weight: float = 1.0,
        adversary: Adversary | None = None,
        gan_start: int = 0,
        gan_warmup: int = 0,
        gan_weight: float = 0.8,
        gan_lr: float = 2e-4,
        perturbation: Perturbation | None = None,
        gumbel_temperature: tuple[float, float] = (0.9, 0.0625),
        clip_norm: float = 1.0,
        seed: int = 0,
        settings: dict | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.vqgan = vqgan.to(memory_format=torch.channels_last)
        self.adversary = adversary if gan_weight > 0 and gan_start < steps else None
        self.perceptual = perceptual if perceptual_weight > 0 else None
        self.steps, self.lr, self.warmup, self.lr_final = steps, lr, warmup, lr_final
        self.betas, self.accumulate = tuple(betas), accumulate
        self.continuous_steps, self.usage_window, self.restart_dead = continuous_steps, usage_window, restart_dead
        self.pixel_loss, self.perceptual_weight, self.clip_norm = pixel_loss, perceptual_weight, clip_norm
        self.gan_start, self.gan_warmup, self.gan_weight, self.gan_lr = gan_start, gan_warmup, gan_weight, gan_lr
        self.perturbation, self.gumbel_temperature = perturbation, tuple(gumbel_temperature)
        self.seed, self.settings = seed, settings or {}
        self.batches = 0  # Lightning's global_step counts both optimizers
        self.logged: dict[str, Tensor | float] = {}  # of the last batch

    def configure_optimizers(self):
        optimizers = [torch.optim.Adam(self.vqgan.parameters(), self.lr, self.betas, fused=True)]
        if self.adversary is not None:
            optimizers.append(torch.optim.Adam(self.adversary.parameters(), self.gan_lr, self.betas, fused=True))
        return optimizers

    @property
    def quantising(self) -> bool:
        return self.batches >= self.continuous_steps

    def training_step(self, batch: dict, _: int) -> None:
        seed_batch(self.seed, self.batches, self.global_rank)
        optimizers = self.optimizers()
        optimizer, *of_adversary = optimizers if isinstance(optimizers, list) else [optimizers]
        factor = warmup_linear(self.batches, self.steps, self.warmup, self.lr_final)
        set_learning_rates([optimizer], self.lr * factor)
        gan_on = bool(of_adversary) and self.batches >= self.gan_start
        self._set_course()

        pictures = self.images(batch).chunk(self.accumulate)
        optimizer.zero_grad()
        made, logged = zip(*(self._generate(image_BCHW, gan_on) for image_BCHW in pictures), strict=True)
        self._step(optimizer, self.vqgan.parameters())
        means = mean_over_ranks(torch.stack([torch.stack(list(part.values())) for part in logged]).mean(0))
        parts = dict(zip(logged[0], means, strict=True)) | self._tend_codebook(made)
        if gan_on:
            set_learning_rates(of_adversary, self.gan_lr * factor)
            of_adversary[0].zero_grad()
            parts |= self._discriminate(pictures, made)
            self._step(of_adversary[0], self.adversary.parameters())

        self.batches += 1
        self.logged = parts
        self.log_dict({f"train/{name}": value for name, value in parts.items()})
        self.log("loss", parts["image"], prog_bar=True, logger=False)
        self.log("lr", self.lr * factor)

    def images(self, batch: dict) -> Tensor:
        return to_model_range(batch["image"]).contiguous(memory_format=torch.channels_last)

    def _set_course(self) -> None:
        done = self.batches / self.steps
        if isinstance(self.vqgan.quantizer, Gumbel):
            first, last = self.gumbel_temperature
            self.vqgan.quantizer.temperature = first * (last / first) ** done
        self.strength = min(1.0, max(0.5, 1 - 0.5 * (done - 0.2) / 0.4))  # of the perturbation, as in RobustTok

    def _perturbation(self) -> Perturbation | None:
        if self.perturbation is None or not self.quantising:
            return None
        share, prob, neighbours = self.perturbation
        return Perturbation(share, prob * self.strength, max(1, round(neighbours * self.strength)))

    def _generate(self, image_BCHW: Tensor, gan_on: bool) -> tuple[Reconstruction, dict[str, Tensor]]:
        """The gradients of the autoencoder on one part of the batch; what it made, detached, and what to log."""
        made = self.vqgan(image_BCHW, self.quantising, self._perturbation())
        # the losses are gone through once, to the picture, and what they say there once through the autoencoder
        made_BCHW = made.image_BCHW.detach().float().requires_grad_()
        image_loss, parts = self.image_loss(made_BCHW, image_BCHW)
        (pull_BCHW,) = torch.autograd.grad(image_loss, made_BCHW)
        if gan_on:
            self.adversary.requires_grad_(False)
            (push_BCHW,) = torch.autograd.grad(self.adversary.generator_loss(made_BCHW), made_BCHW)
            self.adversary.requires_grad_(True)
            weight = adaptive_weight(made.image_BCHW, pull_BCHW, push_BCHW, self.vqgan.last_layer, mean_over_ranks)
            rise = min(1.0, (self.batches - self.gan_start + 1) / max(1, self.gan_warmup))
            pull_BCHW = pull_BCHW + rise * self.gan_weight * weight * push_BCHW
            parts["gan_weight"] = weight
        loss = (made.image_BCHW * pull_BCHW).sum() + made.loss  # of which the gradient at the picture is what pulls
        self.manual_backward(loss / self.accumulate)
        return made._replace(image_BCHW=made_BCHW.detach(), loss=made.loss.detach()), parts

    def image_loss(self, made_BCHW: Tensor, image_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = loss = pixel_distance(made_BCHW, image_BCHW, self.pixel_loss)
        parts = {self.pixel_loss: pixels.detach()}
        if self.perceptual is not None:
            perceptual = self.perceptual(made_BCHW, image_BCHW)
            loss = pixels + self.perceptual_weight * perceptual
            parts["perceptual"] = perceptual.detach()
        return loss, parts | {"image": loss.detach()}

    def _discriminate(self, pictures: Iterable[Tensor], made: Iterable[Reconstruction]) -> dict[str, Tensor]:
        """The gradients of the adversary on the same pictures, and what to log."""
        losses, logits = [], []
        for image_BCHW, one in zip(pictures, made, strict=True):
            loss, mean_logits = self.adversary.discriminator_loss(image_BCHW, one.image_BCHW)
            self.manual_backward(loss / self.accumulate)
            losses.append(loss.detach())
            logits.append(mean_logits)
        real, fake = mean_logits = mean_over_ranks(torch.stack(logits).mean(0))
        self.adversary.remember(mean_logits)
        return {"discriminator": mean_over_ranks(torch.stack(losses).mean()), "logits_real": real, "logits_made": fake}

    def _step(self, optimizer, parameters: Iterable[Tensor]) -> None:
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        optimizer.step()

    def _tend_codebook(self, made: Iterable[Reconstruction]) -> dict[str, float]:
        quantizer, done = self.vqgan.quantizer, self.batches + 1
        tokens_BL = torch.cat([one.tokens_Bhw.flatten(1) for one in made])
        vectors_ND = torch.cat([one.vectors_ND for one in made])
        if done == self.continuous_steps:
            start_codebook(quantizer, tokens_BL, vectors_ND, self.seed, self.batches)
        elif done > self.continuous_steps:
            tend_codebook(quantizer, tokens_BL, vectors_ND)
            if (done - self.continuous_steps) % self.usage_window == 0:
                restart = self.restart_dead and done < 0.75 * self.steps
                return end_window(quantizer, tokens_BL, vectors_ND, self.seed, self.batches, restart)
        return {}

    def on_validation_start(self) -> None:
        self.counts_K = torch.zeros(self.vqgan.quantizer.codebook_size, device=self.device)

    def validation_step(self, batch: dict, _: int) -> None:
        image_BCHW = self.images(batch)
        made = self.vqgan(image_BCHW, self.quantising)
        image_loss, _ = self.image_loss(made.image_BCHW, image_BCHW)
        self.counts_K += occurrences(made.tokens_Bhw, len(self.counts_K))
        size = len(image_BCHW)
        self.log("val/loss", image_loss, prog_bar=True, batch_size=size)
        self.log("val/psnr", psnr(to_uint8(made.image_BCHW), batch["image"]).mean(), prog_bar=True, batch_size=size)

    def on_validation_epoch_end(self) -> None:
        self.log("val/usage", usage(self.counts_K))
        self.log("val/perplexity", perplexity(self.counts_K))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["clipgen"] = {"stage": "vqgan", "batches": self.batches, "settings": self.settings}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.batches = checkpoint["clipgen"]["batches"]
