"""The stages of a run, each a function of the config: skipped when done, continued when begun, redone when changed."""

from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from clipgen.callbacks.ema import EMA
from clipgen.callbacks.finite import Finite
from clipgen.callbacks.health import Health
from clipgen.check.tokenizer import check_perceptual
from clipgen.checkpoint import weights_sha256
from clipgen.cli.assemble import mean_of
from clipgen.cli.build import (
    TRANSFORMER_TRAINING_KEYS,
    VQGAN_TRAINING_KEYS,
    check_adversary,
    gan_start,
    make_adversary,
    tokenizer_settings,
    tokenizer_sha256,
    transformer_settings,
)
from clipgen.cli.imports import check_inputs, check_start, read_tokenizer, read_transformer
from clipgen.cli.latents import clip_in_use, latents_in_use
from clipgen.cli.machine import loader_workers, pick_device
from clipgen.cli.perceptual import PERCEPTUAL_FILE_KEYS, needs_clip, perceptual_inputs, perceptual_loss
from clipgen.cli.reconstruction import embedding_reconstruction
from clipgen.cli.record import Record
from clipgen.cli.say import say, say_cut
from clipgen.cli.stage import PREVIEWS, batches, fit, fit_tokens, preview_options, refuse_own, say_used, start
from clipgen.clip.module import ClipModule, save_open_clip
from clipgen.config import Config, asdict_of
from clipgen.data.manifest import Manifest
from clipgen.data.module import CaptionedData, CaptionedLatentData, ImageData, LatentData
from clipgen.data.sample import decode_captions
from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.errors import UserError
from clipgen.picture import image_grid
from clipgen.ranks import world_size
from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.compiled import compile_in_place
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.bridges import bridge, of_texts
from clipgen.transformer.compiler import check_compiler
from clipgen.transformer.condition import centre
from clipgen.transformer.model import Transformer
from clipgen.transformer.module import TransformerModule
from clipgen.transformer.sampling import generate
from data_prep.statistics import bank, load_statistics


def train_vqgan(cfg: Config, folder: Path) -> Record:
    """Stage 1: image shards → `folder/last.ckpt`."""
    t = cfg.tokenizer
    check_perceptual(t.train)
    if cfg.trainer.precision == "16-mixed":
        raise UserError("trainer.precision=16-mixed cannot train a GAN whose weight adapts; take bf16-mixed or 32-true")
    if cfg.trainer.compile:
        check_compiler(pick_device(cfg.trainer.device))
    of_no_effect = (*PERCEPTUAL_FILE_KEYS, "checkpointing")  # on what comes out
    training = {key: value for key, value in asdict_of(t.train).items() if key not in of_no_effect}
    if t.ckpt:
        training["continuous_steps"] = 0  # it has its codebook already
    settings = {"tokenizer": tokenizer_settings(t), "tokenizer.train": training, "seed": cfg.seed}
    images = Manifest.load(cfg.shards, "images")
    clip = clip_in_use(cfg) if needs_clip(t.train) else None
    inputs = {
        "images": images.content,
        "clip": clip.identity.fingerprint() if clip else None,
        "perceptual_weights": perceptual_inputs(t.train),
        "start": None,
    }
    if t.ckpt:
        refuse_own(t.ckpt, folder, "tokenizer.ckpt")
        weights = read_tokenizer(t.ckpt, t.ckpt_config)[1]  # before `folder` may be set aside
        inputs["start"] = tokenizer_sha256(weights)
    data = ImageData(
        cfg.shards, t.image_size, t.train.batch_size, t.train.steps, cfg.seed, t.train.flip,
        loader_workers(cfg.trainer), val_samples=cfg.trainer.val_samples,
    )  # fmt: skip
    if t.train.gan_weight > 0:
        check_adversary(t)
    perceptual = perceptual_loss(t, pick_device(cfg.trainer.device), clip)
    record = start(folder, "vqgan", settings, inputs)
    if record.done:
        return record
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if t.train.gan_weight > 0 and gan_start(t.train) >= t.train.steps:
        say(f"vqgan: no GAN, as tokenizer.train.gan_start={t.train.gan_start:g} is beyond {t.train.steps} steps")
    vqgan = VQGAN(**settings["tokenizer"])
    if t.ckpt:
        vqgan.load_state_dict(weights)
    vqgan.checkpoint_blocks(t.train.checkpointing)
    module = VQGANModule(
        vqgan,
        perceptual=perceptual,
        adversary=make_adversary(t),
        gan_start=gan_start(t.train),
        perturbation=Perturbation(t.train.perturb_share, t.train.perturb_prob, t.train.perturb_neighbours)
        if t.train.perturb_share
        else None,
        seed=cfg.seed,
        settings=settings,
        **{key: value for key, value in training.items() if key in VQGAN_TRAINING_KEYS},
    )
    if cfg.trainer.compile:
        compile_in_place(vqgan, module.adversary)

    def drawn_codes() -> dict[str, torch.Tensor]:
        drawn_K = module.vqgan.quantizer.drawn_K
        return {} if drawn_K is None else {"quantizer.codebook": drawn_K}

    tokens = t.train.batch_size * t.train.usage_window * vqgan.grid[0] * vqgan.grid[1]
    reachable = min(1.0, tokens / vqgan.quantizer.codebook_size)
    health = Health(folder, t.train.usage_window, vqgan.quantizer.remedy, reachable, say)
    ema = EMA("vqgan", t.train.ema, drawn_codes) if t.train.ema else None

    def draw() -> Image.Image:
        with ema.weights() if ema else nullcontext():
            return reconstructions()

    def reconstructions() -> Image.Image:
        pixels = data.val_batches.plain(range(min(PREVIEWS, data.n_val)))["image"]
        image_BCHW = to_model_range(pixels).to(module.device)
        made = module.vqgan(image_BCHW, module.quantising).image_BCHW
        rows = [*pixels.numpy(), *to_uint8(made.float()).cpu().numpy()]
        return image_grid(rows, len(pixels), ["images", "reconstructions"])

    callbacks = [health, ema] if ema else [health]
    fit(cfg, record, module, data, t.train.batch_size, draw if data.n_val else None, callbacks=callbacks)
    return record


def train_transformer(cfg: Config, folder: Path) -> Record:
    """Stage 2: latent shards → `folder/best.ckpt`."""
    m = cfg.transformer
    latents = latents_in_use(cfg)
    clip = latents.clip
    by_text = m.condition == "text"
    if by_text:
        data = CaptionedLatentData(cfg.latents, *batches(cfg), share=cfg.captions_share, embeddings=True)
    else:
        data = LatentData(cfg.latents, *batches(cfg))
    model = transformer_settings(m, data.grid, latents.codebook_size, data.embedding_size)
    training = {key: value for key, value in asdict_of(m.train).items() if key != "checkpointing"}
    settings = {"transformer": model, "transformer.train": training, "seed": cfg.seed}
    if by_text:
        settings["captions_share"] = cfg.captions_share
        say_used("transformer", data, cfg.captions_share)
    inputs = {"latents": latents.content, "start": None}
    device = pick_device(cfg.trainer.device)
    statistics = load_statistics(cfg.latents)  # this and what else may fail comes before `folder` may be set aside
    trained_with = {"tokenizer": latents.tokenizer, "CLIP": (clip.identity.fingerprint(), clip.identity.model)}
    if m.ckpt:
        refuse_own(m.ckpt, folder, "transformer.ckpt")
        found, weights, of_start = read_transformer(m.ckpt)
        check_start(m.ckpt, found, model)
        check_inputs(m.ckpt, of_start, trained_with)
        inputs["start"] = weights_sha256(weights)
    if cfg.trainer.compile:
        check_compiler(device)
    prompts = list(cfg.prompts)[:PREVIEWS]
    text_BE = None
    if prompts:
        say_cut(clip, prompts)
        bank_NE = bank(cfg.latents, cfg.bank) if "knn" in cfg.sampling.bridge else None
        text_BE = clip.encode_text(prompts).cpu()
        if by_text:
            text_BE = of_texts(text_BE, statistics, m.centred).to(device)
        else:
            text_BE = bridge(cfg.sampling.bridge, text_BE, statistics, bank_NE, m.centred).to(device)
    record = start(folder, "transformer", settings, inputs)
    if record.done:
        return record
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    trained_with |= mean_of(m.condition, statistics, cfg.latents, m.centred)
    mean_E = statistics[f"{m.condition}_mean"]
    transformer = Transformer(**model)
    if m.ckpt:
        transformer.load_state_dict(weights)
    transformer.checkpointing = m.train.checkpointing
    vqgan = latents.vqgan.to(device)
    module = TransformerModule(
        transformer,
        mean_E if m.centred else torch.zeros_like(mean_E),
        reconstruction=embedding_reconstruction(m.train.recon, vqgan, clip),
        seed=cfg.seed,
        settings=settings,
        inputs={kind: fingerprint for kind, (fingerprint, _) in trained_with.items()},
        **{key: value for key, value in training.items() if key in TRANSFORMER_TRAINING_KEYS},
    )

    def samples() -> Image.Image:
        if text_BE is not None:
            condition_BE, labels = text_BE, prompts
        else:
            batch = data.val_batches.plain(range(min(PREVIEWS, data.n_val)))
            condition_BE = centre(batch["clip"].to(device), module.image_mean_E)
            like = "as a caption of" if by_text else "like"
            labels = [f"{like} held-out picture {i}" for i in range(len(condition_BE))]
        each = 4
        condition_BE = condition_BE.repeat_interleave(each, 0)
        level_B = torch.full((len(condition_BE),), cfg.sampling.fidelity, device=device)
        options = preview_options(cfg.sampling, vqgan)
        tokens_Bhw = generate(module.transformer, condition_BE, level_B, range(len(condition_BE)), **options)
        images = to_uint8(vqgan.decode(tokens_Bhw).float()).cpu().numpy()
        return image_grid(images, each, labels)

    fit_tokens(cfg, record, module, data, samples if prompts or data.n_val else None)
    return record


def train_clip(cfg: Config, folder: Path) -> Record:
    """A small CLIP on captioned shards → `folder` in open_clip's own format."""
    c = cfg.clip
    if not c.architecture:
        raise UserError("clip.architecture is empty; take clip=shapes or clip=small, or give open_clip's model config")
    architecture, training = asdict_of(c.architecture), asdict_of(c.train)
    settings = {"clip": architecture, "clip.train": training, "seed": cfg.seed}
    images = Manifest.load(cfg.shards, "images")
    size = architecture["vision_cfg"]["image_size"]
    data = CaptionedData(
        cfg.shards, size, c.train.batch_size, c.train.steps, cfg.seed,
        num_workers=loader_workers(cfg.trainer), val_samples=cfg.trainer.val_samples,
    )  # fmt: skip
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    training = {key: value for key, value in training.items() if key != "batch_size"}
    module = ClipModule(architecture, settings=settings, **training)
    if world_size() > 1 and any(isinstance(part, _BatchNorm) for part in module.modules()):
        raise UserError(
            f"trainer.devices={world_size()}: this clip.architecture normalises over a batch, of which each device has "
            "a part; take trainer.devices=1, or the architecture of a vision transformer"
        )
    record = start(folder, "clip", settings, {"images": images.content})
    if record.done:
        return record
    shards = data.shards("train")
    some = range(0, len(shards), max(1, len(shards) // 2000))
    captions = sorted({caption for i in some for caption in decode_captions(shards[i])})
    finite = Finite(folder, "clip.train.lr")
    fit(cfg, record, module, data, c.train.batch_size, None, lambda: save_open_clip(module, folder, captions), [finite])
    return record
