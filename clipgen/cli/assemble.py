"""Checkpoints → generator: of a run's stages, of either kind, with what sampling needs to know of the latents."""

import json
from pathlib import Path
from typing import Any

import torch

from clipgen.caption_pipeline import Captioner
from clipgen.check.sampling import check_sampling
from clipgen.checkpoint import read_checkpoint, submodule, weights_sha256
from clipgen.cli.build import load_clip_once, load_tokenizer, load_transformer, tokenizer_path
from clipgen.cli.imports import check_inputs, read_paired
from clipgen.cli.latents import check_latents
from clipgen.cli.say import say
from clipgen.clip.frozen import FrozenClip
from clipgen.config import asdict_of
from clipgen.data.manifest import Manifest
from clipgen.errors import UserError
from clipgen.paired.captioner import CaptionTransformer
from clipgen.paired.model import PairedTransformer
from clipgen.paired_pipeline import PairedGen
from clipgen.pipeline import ClipGen
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.model import CausalTransformer
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscaler import Upscaler
from data_prep.statistics import bank, load_statistics


def transformer_checkpoint(folder: Path) -> Path:
    """The best by validation, or the last where there was nothing to validate on."""
    best = folder / "best.ckpt"
    return best if best.exists() else folder / "last.ckpt"


def export(
    cfg, tokenizer: Path, transformer: Path, latents: Path, out: Path, stage: str = "transformer"
) -> ClipGen | Captioner | Upscaler:
    """A folder that needs nothing else: safetensors, config, model card, and the CLIP where it is a local one."""
    others = {"caption": assemble_captioner, "super": assemble_super}
    pipeline = (ASSEMBLERS | others)[stage](cfg, tokenizer, transformer, latents)
    pipeline.save_pretrained(out)
    return pipeline


def assemble_stage(cfg, folder: Path, device: str | torch.device = "cpu") -> ClipGen:
    """The generator of a stage folder of either kind, with the tokenizer and the latents of `cfg`."""
    stage = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["stage"]
    return ASSEMBLERS[stage](cfg, tokenizer_path(cfg), transformer_checkpoint(folder), Path(cfg.latents), device)


def assemble(cfg, tokenizer: Path, transformer: Path, latents: Path, device: str | torch.device = "cpu") -> ClipGen:
    """The generator of two checkpoints, with the statistics of the latents; UserError where they do not fit."""
    clip = load_clip_once(cfg.clip.model, cfg.clip.pretrained)
    vqgan, vqgan_settings, sha256 = load_tokenizer(tokenizer, cfg.tokenizer.ckpt_config)
    model, model_settings, inputs = load_transformer(transformer)
    with_latents = model.centred or (latents / "manifest.json").exists()
    if with_latents:
        check_latents(Manifest.load(latents, "latents"), str(latents), tokenizer, sha256, clip)
    _check_fits(transformer, model_settings, vqgan, tokenizer, clip)
    check_sampling(cfg.sampling, cfg.bank, vqgan.quantizer.codebook_size)
    statistics, bank_NE = (load_statistics(latents), bank(latents, cfg.bank)) if with_latents else ({}, None)
    trained_with = {"tokenizer": (sha256, str(tokenizer)), "CLIP": (clip.identity.fingerprint(), clip.identity.model)}
    check_inputs(transformer, inputs, trained_with | mean_of(model.condition, statistics, latents, model.centred))
    sampling = fitting(asdict_of(cfg.sampling), model, with_latents)
    return ClipGen(
        vqgan, model, clip, statistics, sampling,
        {"tokenizer": vqgan_settings, "transformer": model_settings}, device, bank_NE,
    )  # fmt: skip


def assemble_paired(cfg, tokenizer: Path, paired: Path, latents: Path, device: str | torch.device = "cpu") -> PairedGen:
    """The generator of a tokenizer and of a checkpoint of stage=paired, with the text.model beside it."""
    clip = load_clip_once(cfg.clip.model, cfg.clip.pretrained)
    vqgan, vqgan_settings, sha256 = load_tokenizer(tokenizer, cfg.tokenizer.ckpt_config)
    settings, weights, inputs, text = read_paired(paired, "paired")
    _check_fits(paired, settings, vqgan, tokenizer)
    check_sampling(cfg.sampling, cfg.bank, vqgan.quantizer.codebook_size)
    check_inputs(paired, inputs, {"tokenizer": (sha256, str(tokenizer))})
    model = PairedTransformer(**settings)
    model.load_state_dict(weights)
    sampling = fitting(asdict_of(cfg.sampling), model)
    return PairedGen(vqgan, model, clip, text, sampling, {"tokenizer": vqgan_settings, "paired": settings}, device)


def assemble_captioner(
    cfg, tokenizer: Path, caption: Path, latents: Path, device: str | torch.device = "cpu"
) -> Captioner:
    """The captioner of a tokenizer and of a checkpoint of stage=paired task=caption, with the text.model beside it."""
    vqgan, vqgan_settings, sha256 = load_tokenizer(tokenizer, cfg.tokenizer.ckpt_config)
    settings, weights, inputs, text = read_paired(caption, "caption")
    _check_fits(caption, settings, vqgan, tokenizer)
    check_inputs(caption, inputs, {"tokenizer": (sha256, str(tokenizer))})
    model = CaptionTransformer(**settings)
    model.load_state_dict(weights)
    return Captioner(vqgan, model, text, {"tokenizer": vqgan_settings, "paired": settings}, device)


def assemble_super(cfg, tokenizer: Path, upscaler: Path, latents: Path, device: str | torch.device = "cpu") -> Upscaler:
    """What enlarges, of a tokenizer and of a checkpoint of stage=super; it needs no CLIP."""
    vqgan, vqgan_settings, sha256 = load_tokenizer(tokenizer, cfg.tokenizer.ckpt_config)
    checkpoint = read_checkpoint(upscaler, "super")
    settings, inputs = checkpoint["clipgen"]["settings"]["super"], checkpoint["clipgen"]["inputs"]
    check_inputs(upscaler, inputs, {"tokenizer": (sha256, str(tokenizer))})
    check_sampling(cfg.sampling, cfg.bank, settings["codebook_size"])
    model = UpscaleTransformer(**settings)
    model.load_state_dict(submodule(checkpoint, "transformer"))
    return Upscaler(vqgan, model, asdict_of(cfg.sampling), {"tokenizer": vqgan_settings, "super": settings}, device)


ASSEMBLERS = {"transformer": assemble, "paired": assemble_paired}  # of generators


def _check_fits(path: Path, settings: dict[str, Any], vqgan: VQGAN, tokenizer: Path, clip: FrozenClip | None = None):
    parts, of_clip = {"grid": list(vqgan.grid), "codebook_size": vqgan.quantizer.codebook_size}, ""
    if clip is not None:
        parts["embed_dim"], of_clip = clip.identity.embed_dim, f" and clip.model={clip.identity.model}"
    for key, value in parts.items():
        if (trained := settings[key]) != value:
            raise UserError(
                f"{path} was trained for {key} {trained}, but {tokenizer}{of_clip} have {value}; give those that it "
                "was trained with"
            )


def mean_of(
    condition: str, statistics: dict[str, torch.Tensor], latents: str | Path, centred: bool
) -> dict[str, tuple[str, str]]:
    """The mean of `image` or `text` that conditions are centred by, as `check_inputs` takes it; or nothing."""
    mean = f"{condition}_mean"
    return {mean: (weights_sha256({mean: statistics[mean]}), str(latents))} if centred else {}


def fitting(sampling: dict[str, Any], model: CausalTransformer, with_latents: bool = True) -> dict[str, Any]:
    """The sampling defaults of a model folder, each changed, and said so, that this Transformer cannot follow."""
    if not with_latents:
        sampling["bridge"] = "none"
        say("there are no latents, so nothing is known of the gap: sampling.bridge=none, as in the paper")
    if not model.knows_null and sampling["guidance_scale"] != 1:
        sampling["guidance_scale"] = 1.0
        say("the Transformer knows no null (transformer.cond_drop_prob=0): sampling.guidance_scale=1")
    if model.gft and (sampling["guidance_schedule"] != "constant" or sampling["guidance_scale"] < 1):
        sampling |= {"guidance_schedule": "constant", "guidance_scale": max(1.0, sampling["guidance_scale"])}
        say(
            "the Transformer is told one scale of at least 1 (transformer.gft): "
            f"sampling.guidance_schedule=constant, sampling.guidance_scale={sampling['guidance_scale']:g}"
        )
    if sampling["fidelity"] < model.least_level:
        sampling["fidelity"] = model.least_level
        say(f"the Transformer has seen no level below {model.least_level:g}: sampling.fidelity={model.least_level:g}")
    return sampling
