"""Training of stage 1: autoencoder and discriminator in turn on one forward pass, counted in batches.

B batch, H W pixels
"""

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor

from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.schedule import seed_batch, set_learning_rates, warmup_linear
from clipgen.tokenizer.discriminator import patch_gan
from clipgen.tokenizer.loss import (
    Features,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    perceptual_distance,
    psnr,
)
from clipgen.tokenizer.quantize import perplexity, usage
from clipgen.tokenizer.vqgan import VQGAN


class VQGANModule(pl.LightningModule):
    """L1 + perceptual + quantizer + (from batch `gan_start` on) hinge GAN with adaptive weight.

    The first `continuous_steps` batches are not quantised; then the codebook is drawn from the encoder's outputs, and
    codes unused over a window of `restart_every` batches are drawn again, until the last quarter of the training.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        steps: int,
        lr: float,
        warmup: int = 50,
        continuous_steps: int = 100,
        restart_every: int = 50,
        perceptual: Features | None = None,
        perceptual_weight: float = 1.0,
        gan_start: int = 0,
        gan_weight: float = 0.8,
        gan_layers: int = 2,
        gan_channels: int = 32,
        gan_lr: float = 2e-4,
        clip_norm: float = 1.0,
        seed: int = 0,
        settings: dict | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.vqgan = vqgan.to(memory_format=torch.channels_last)
        discriminator = patch_gan(gan_layers, gan_channels) if gan_weight > 0 and gan_start < steps else None
        self.discriminator = discriminator
        self.perceptual = perceptual if perceptual_weight > 0 else None
        self.steps, self.lr, self.warmup = steps, lr, warmup
        self.continuous_steps, self.restart_every = continuous_steps, restart_every
        self.perceptual_weight, self.clip_norm = perceptual_weight, clip_norm
        self.gan_start, self.gan_weight, self.gan_lr = gan_start, gan_weight, gan_lr
        self.seed, self.settings = seed, settings or {}
        self.batches = 0  # Lightning's global_step counts both optimizers

    def configure_optimizers(self):
        betas = (0.9, 0.95)  # LlamaGen's; VQGAN's own (0.5, 0.9) learn more slowly over a few hundred batches
        optimizers = [torch.optim.Adam(self.vqgan.parameters(), self.lr, betas, fused=True)]
        if self.discriminator is not None:
            optimizers.append(torch.optim.Adam(self.discriminator.parameters(), self.gan_lr, betas, fused=True))
        return optimizers

    def training_step(self, batch: dict, _: int) -> None:
        seed_batch(self.seed, self.batches, self.global_rank)
        image_BCHW = self.images(batch)
        optimizers = self.optimizers()
        optimizer, *adversary = optimizers if isinstance(optimizers, list) else [optimizers]
        factor = warmup_linear(self.batches, self.steps, self.warmup)
        set_learning_rates([optimizer], self.lr * factor)
        gan_on = bool(adversary) and self.batches >= self.gan_start

        made = self.vqgan(image_BCHW, quantise=self.batches >= self.continuous_steps)
        image_loss, parts = self.image_loss(made.image_BCHW, image_BCHW)
        loss = image_loss + made.loss
        if gan_on:
            self.discriminator.requires_grad_(False)
            adversarial = hinge_generator(self.discriminator(made.image_BCHW))
            weight = adaptive_weight(image_loss, adversarial, self.vqgan.last_layer)
            loss = loss + self.gan_weight * weight * adversarial
            self.discriminator.requires_grad_(True)
            parts["gan_weight"] = weight
        self._step(optimizer, loss, self.vqgan.parameters())
        self._tend_codebook(made.tokens_Bhw, made.vectors_ND)
        if gan_on:
            set_learning_rates(adversary, self.gan_lr * factor)
            real = self.discriminator(image_BCHW)
            fake = self.discriminator(made.image_BCHW.detach())
            parts["discriminator"] = hinge_discriminator(real, fake)
            self._step(adversary[0], parts["discriminator"], self.discriminator.parameters())

        self.batches += 1
        self.log_dict({f"train/{name}": value for name, value in parts.items()})
        self.log("loss", image_loss, prog_bar=True, logger=False)
        self.log("lr", self.lr * factor)

    def images(self, batch: dict) -> Tensor:
        return to_model_range(batch["image"]).contiguous(memory_format=torch.channels_last)

    def image_loss(self, made_BCHW: Tensor, image_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        l1 = (made_BCHW.float() - image_BCHW).abs().mean()
        if self.perceptual is None:
            return l1, {"l1": l1.detach()}
        perceptual = perceptual_distance(self.perceptual, made_BCHW, image_BCHW)
        return l1 + self.perceptual_weight * perceptual, {"l1": l1.detach(), "perceptual": perceptual.detach()}

    def _step(self, optimizer, loss: Tensor, parameters: Iterable[Tensor]) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        optimizer.step()

    def _tend_codebook(self, tokens_Bhw: Tensor, vectors_ND: Tensor) -> None:
        quantizer = self.vqgan.quantizer
        done = self.batches + 1
        if done < self.continuous_steps:
            return
        if done == self.continuous_steps:
            return quantizer.start_from(vectors_ND)
        quantizer.count(tokens_Bhw)
        if (done - self.continuous_steps) % self.restart_every == 0:
            self.log("train/usage", usage(quantizer.used_K))
            self.log("train/perplexity", perplexity(quantizer.used_K))
            restarted = quantizer.restart_dead(vectors_ND) if done < 0.75 * self.steps else 0
            self.log("train/restarted_codes", float(restarted))

    def on_validation_start(self) -> None:
        self.counts_K = torch.zeros(self.vqgan.quantizer.codebook_size, device=self.device)

    def validation_step(self, batch: dict, _: int) -> None:
        image_BCHW = self.images(batch)
        made = self.vqgan(image_BCHW, quantise=self.batches >= self.continuous_steps)
        image_loss, _ = self.image_loss(made.image_BCHW, image_BCHW)
        self.counts_K += torch.bincount(made.tokens_Bhw.flatten(), minlength=len(self.counts_K))
        size = len(image_BCHW)
        self.log("val/loss", image_loss, prog_bar=True, batch_size=size)
        self.log("val/psnr", psnr(to_uint8(made.image_BCHW), batch["image"]).mean(), prog_bar=True, batch_size=size)

    def on_validation_epoch_end(self) -> None:
        self.log("val/usage", usage(self.counts_K))
        self.log("val/perplexity", perplexity(self.counts_K))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["clipgen"] = {"stage": "vqgan", "batches": self.batches, "settings": self.settings}
        for key in self._perceptual_state():  # a frozen network has its own files
            del checkpoint["state_dict"][key]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.batches = checkpoint["clipgen"]["batches"]
        checkpoint["state_dict"] |= self._perceptual_state()

    def _perceptual_state(self) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in self.state_dict().items() if key.startswith("perceptual.")}
