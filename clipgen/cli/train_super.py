"""Stage `super`: tokens of pictures at two sizes → the Transformer that enlarges."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image

from clipgen.checkpoint import weights_sha256
from clipgen.cli.build import TOKEN_TRAINING_KEYS, upscale_settings
from clipgen.cli.imports import check_inputs, check_start, read_tokens_model
from clipgen.cli.latents import latents_in_use
from clipgen.cli.machine import pick_device
from clipgen.cli.record import Record
from clipgen.cli.stage import PREVIEWS, batches, fit_tokens, refuse_own, start
from clipgen.config import Config, asdict_of
from clipgen.data.module import LargeLatentData
from clipgen.data.transforms import to_uint8
from clipgen.picture import image_grid
from clipgen.transformer.compiler import check_compiler
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscale.module import UpscaleModule
from clipgen.upscale.sampling import upscale

SAMPLED = ("temperature", "top_k", "top_p", "min_p")


def train_super(cfg: Config, folder: Path) -> Record:
    """Latents made with encode.large → `folder/best.ckpt`."""
    m = cfg.transformer
    latents = latents_in_use(cfg, with_clip=False)
    data = LargeLatentData(cfg.latents, *batches(cfg))
    model = upscale_settings(cfg, data.grid, latents.codebook_size)
    training = {key: getattr(m.train, key) for key in TOKEN_TRAINING_KEYS}
    own = {"ema": m.train.ema, "batch_size": m.train.batch_size}
    settings = {"super": model, "super.train": training | own, "seed": cfg.seed}
    inputs = {"latents": latents.content, "start": None}
    device = pick_device(cfg.trainer.device)
    if m.ckpt:
        refuse_own(m.ckpt, folder, "transformer.ckpt")
        found, weights, of_start = read_tokens_model(m.ckpt)
        wanted = {key: value for key, value in model.items() if key != "window"} | {"grid": list(data.grid)}
        check_start(m.ckpt, found, wanted, UpscaleTransformer)
        check_inputs(m.ckpt, of_start, {"tokenizer": latents.tokenizer})
        inputs["start"] = weights_sha256(weights)
    if cfg.trainer.compile:
        check_compiler(device)
    record = start(folder, "super", settings, inputs)
    if record.done:
        return record
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    transformer = UpscaleTransformer(**model)
    if m.ckpt:
        transformer.begin_from(weights)
    transformer.checkpointing = m.train.checkpointing
    vqgan = latents.vqgan.to(device)
    module = UpscaleModule(
        transformer,
        seed=cfg.seed,
        settings=settings,
        inputs={"tokenizer": latents.tokenizer[0]},
        **training,
    )

    @torch.no_grad()
    def samples() -> Image.Image:
        shown = data.val_batches.plain(range(min(PREVIEWS, data.n_val)))
        small_Bhw, options = shown["tokens"].to(device), asdict_of(cfg.sampling)
        made = upscale(transformer, small_Bhw, range(len(small_Bhw)), **{key: options[key] for key in SAMPLED})
        sides = (small_Bhw, made, shown["large"].to(device))
        pictures = [to_uint8(vqgan.decode(tokens)).cpu().numpy() for tokens in sides]
        rows: list[np.ndarray] = [picture for row in pictures for picture in row]
        return image_grid(rows, len(small_Bhw), ["small", "enlarged", "the true tokens"])

    fit_tokens(cfg, record, module, data, samples if data.n_val else None)
    return record
