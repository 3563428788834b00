"""Stage `super`: tokens of pictures at two sizes → the Transformer that enlarges."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image

from clipgen.check.sampling import check_sampling
from clipgen.checkpoint import weights_sha256
from clipgen.cli.build import TOKEN_TRAINING_KEYS, load_tokenizer, tokenizer_path, upscale_settings
from clipgen.cli.imports import check_inputs, check_start, read_tokens_model
from clipgen.cli.latents import check_tokenizer
from clipgen.cli.machine import check_compiler, pick_device
from clipgen.cli.record import Record
from clipgen.cli.stage import PREVIEWS, fit_tokens, refuse_own, start
from clipgen.config import Config, asdict_of
from clipgen.data.manifest import Manifest
from clipgen.data.module import LargeLatentData
from clipgen.data.transforms import to_uint8
from clipgen.picture import image_grid
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscale.module import UpscaleModule
from clipgen.upscale.sampling import upscale

SAMPLED = ("temperature", "top_k", "top_p", "min_p")


def train_super(cfg: Config, folder: Path) -> Record:
    """Latents made with encode.large → `folder/best.ckpt`."""
    m = cfg.transformer
    latents = Manifest.load(cfg.latents, "latents")
    path = tokenizer_path(cfg)
    vqgan, _, sha256 = load_tokenizer(path, cfg.tokenizer.ckpt_config)
    check_tokenizer(latents, cfg.latents, path, sha256)
    data = LargeLatentData(
        cfg.latents, m.train.batch_size, m.train.steps, cfg.seed, cfg.trainer.num_workers, cfg.trainer.val_samples
    )
    codebook_size = latents.made_by["tokenizer"]["codebook_size"]
    check_sampling(cfg.sampling, cfg.bank, codebook_size)
    model = upscale_settings(cfg, data.grid, codebook_size)
    training = {key: value for key, value in asdict_of(m.train).items() if key in (*TOKEN_TRAINING_KEYS, "ema")}
    settings = {"super": model, "super.train": training | {"batch_size": m.train.batch_size}, "seed": cfg.seed}
    inputs = {"latents": latents.content, "start": None}
    device = pick_device(cfg.trainer.device)
    if m.ckpt:
        refuse_own(m.ckpt, folder, "transformer.ckpt")
        found, weights, of_start = read_tokens_model(m.ckpt)
        wanted = {key: value for key, value in model.items() if key != "window"} | {"grid": list(data.grid)}
        check_start(m.ckpt, found, wanted, UpscaleTransformer)
        check_inputs(m.ckpt, of_start, {"tokenizer": (sha256, str(path))})
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
    vqgan.to(device)
    module = UpscaleModule(
        transformer,
        seed=cfg.seed,
        settings=settings,
        inputs={"tokenizer": sha256},
        **{key: value for key, value in training.items() if key != "ema"},
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
