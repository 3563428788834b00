"""The tokenizer and the CLIP in use as what makes latents, and latents held against them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clipgen.bf16 import bf16_pays
from clipgen.check import check_clip
from clipgen.check.sampling import check_sampling
from clipgen.cli.build import load_clip_once, load_tokenizer, tokenizer_path
from clipgen.cli.machine import cores, pick_device
from clipgen.cli.say import say
from clipgen.clip.frozen import FrozenClip
from clipgen.clip.texts import reference_texts
from clipgen.config import Config, asdict_of
from clipgen.data.manifest import Manifest
from clipgen.errors import UserError
from clipgen.tokenizer.vqgan import VQGAN
from data_prep.encode import Encoders, encode, texts_fingerprint
from data_prep.executor import Executor
from data_prep.precision import agreement, holds


def encode_latents(cfg: Config, replace: bool = False) -> Manifest:
    """Image shards → latent shards, by the tokenizer and the CLIP in use."""
    e = cfg.encode
    device, yaml = cfg.trainer.device, cfg.tokenizer.ckpt_config
    make = networks(tokenizer_path(cfg), cfg.clip.model, cfg.clip.pretrained, pick_device(device), yaml)
    encoders = make(e.precision) if e.precision != "auto" else _faster(cfg, make, e.batch_size)
    texts, source = reference_texts(cfg.clip.model, cfg.clip.captions)
    there = MakeEncoders(
        str(tokenizer_path(cfg)), cfg.clip.model, cfg.clip.pretrained, device, encoders.precision, yaml
    )
    return encode(
        cfg.shards, cfg.latents, encoders, texts, source, e.crops, e.batch_size, e.workers or cores(), replace,
        executor=Executor(**asdict_of(cfg.executor)), make_encoders=there, say=say, own_captions=e.own_captions,
        large=e.large,
    )  # fmt: skip


def encode_again(
    shards: str, latents: str, tokenizer: Path, device: str, broken: set[str], yaml: str | None = None
) -> Manifest:
    """Make the `broken` files of finished latents again, as their manifest says that they were made."""
    manifest = Manifest.load(latents, "latents")
    clip = manifest.made_by["clip"]
    encoded = manifest.made_by.get("encode", {})
    if "crops" not in encoded:
        raise UserError(f"latents={latents} are of an earlier version; run `clipgen encode` again with replace=true")
    make = networks(tokenizer, clip["model"], clip["pretrained"], pick_device(device), yaml)
    encoders = make(encoded["precision"])
    if encoders.identity["tokenizer"] != manifest.made_by["tokenizer"]:
        raise UserError(
            f"{tokenizer} is not the tokenizer that made latents={latents}; give that one as tokenizer.ckpt=FILE"
        )
    if encoders.identity["clip"]["fingerprint"] != clip["fingerprint"]:
        raise UserError(
            f"{clip['model']} is not the CLIP that made latents={latents}; bring back its weights, or run "
            "`clipgen encode` with replace=true"
        )
    given = manifest.facts["texts_from"]
    texts, source = reference_texts(clip["model"], given if Path(given).is_file() else None)
    own_captions = manifest.made_by["texts"] == texts_fingerprint(texts)
    if not own_captions and manifest.made_by["texts"] != texts_fingerprint(texts, own_captions):
        raise UserError(
            f"latents={latents} have a text mean from {given}, which are others now; run `clipgen encode` with "
            "replace=true"
        )
    return encode(
        shards, latents, encoders, texts, source, encoded["crops"], workers=cores(), replace=True, redo=broken,
        own_captions=own_captions, large=encoded.get("large", False),
    )  # fmt: skip


@dataclass(frozen=True)
class MakeEncoders:
    """Makes what `encode` needs from a tokenizer's checkpoint and the name of a CLIP, in any process."""

    tokenizer: str
    clip: str
    pretrained: str | None
    device: str
    precision: str
    yaml: str | None = None

    def __call__(self) -> Encoders:
        device = pick_device(self.device)
        return networks(Path(self.tokenizer), self.clip, self.pretrained, device, self.yaml)(self.precision)


def networks(tokenizer: Path, clip_model: str, pretrained: str | None, device: torch.device, yaml: str | None = None):
    """precision → Encoders of a checkpoint of stage 1 and a CLIP."""
    vqgan, settings, sha256 = load_tokenizer(tokenizer, yaml)
    clip = load_clip_once(clip_model, pretrained, device)
    identity = {
        "tokenizer": {"sha256": sha256, "codebook_size": settings["codebook_size"]},
        "clip": {**clip.identity.describe(), "fingerprint": clip.identity.fingerprint()},
    }
    return partial(encoders_of, vqgan.to(device), clip, settings["image_size"], device, identity)


def encoders_of(
    vqgan: VQGAN, clip: FrozenClip, image_size: int, device: torch.device, identity: dict[str, Any], precision: str
) -> Encoders:
    """Two networks that are on the device as what `encode` needs, computing in fp32 or bf16."""

    def faster():
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    @torch.no_grad()
    def tokens(image_BCHW):
        with faster():
            return vqgan.encode(image_BCHW.contiguous(memory_format=torch.channels_last))

    def image(image_BCHW):
        with faster():
            return clip.encode_image(image_BCHW)

    return Encoders(image_size, tokens, image, clip.encode_text, device, identity, precision)


def _faster(cfg: Config, make, batch_size: int) -> Encoders:
    """bf16 where it is faster and holds on the first pictures; latents that are there go on as they were begun."""
    exact = make("fp32")
    if Manifest.exists(cfg.latents):
        made: dict[str, Any] = Manifest.load(cfg.latents, "latents").made_by
        same_clip = made["clip"]["fingerprint"] == exact.identity["clip"]["fingerprint"]  # wherever its folder is now
        if made["tokenizer"] == exact.identity["tokenizer"] and same_clip and "precision" in made["encode"]:
            return make(made["encode"]["precision"])
    if not bf16_pays(exact.device.type):
        print("  encode.precision=fp32  (bf16 is the slower on this device)", flush=True)
        return exact
    tokens, cosine = agreement(cfg.shards, exact, make("bf16"), batch_size)
    chosen = "bf16" if holds(tokens, cosine) else "fp32"
    print(
        f"  encode.precision={chosen}  (in bf16 {tokens:.2%} of the tokens of the first pictures stay the same, the "
        f"cosine of the embeddings is at least {cosine:.4f})",
        flush=True,
    )
    return make(chosen)


@dataclass(frozen=True)
class Latents:
    """Latents to train on, and what they were made by, which is what is in use."""

    content: str
    codebook_size: int
    vqgan: VQGAN
    tokenizer: tuple[str, str]  # sha256 of its weights, and its file
    clip: FrozenClip | None


def latents_in_use(cfg: Config, with_clip: bool = True) -> Latents:
    """UserError where another tokenizer or CLIP made them, or they have fewer codes than sampling draws from."""
    manifest = Manifest.load(cfg.latents, "latents")
    path = tokenizer_path(cfg)
    vqgan, _, sha256 = load_tokenizer(path, cfg.tokenizer.ckpt_config)
    clip = clip_in_use(cfg) if with_clip else None
    check_latents(manifest, cfg.latents, path, sha256, clip)
    codebook_size = manifest.made_by["tokenizer"]["codebook_size"]
    check_sampling(cfg.sampling, cfg.bank, codebook_size)
    return Latents(manifest.content, codebook_size, vqgan, (sha256, str(path)), clip)


def clip_in_use(cfg: Config) -> FrozenClip:
    """The frozen CLIP of the config, on the device in use."""
    check_clip(cfg.clip)
    return load_clip_once(cfg.clip.model, cfg.clip.pretrained, pick_device(cfg.trainer.device))


def check_latents(latents: Manifest, folder: str, path: Path, sha256: str, clip: FrozenClip | None) -> None:
    """Refuse latents of another tokenizer than the one in use, or of another CLIP, where one is."""
    made = latents.made_by["tokenizer"]["sha256"]
    if made != sha256:
        raise UserError(
            f"{folder}/manifest.json was made with tokenizer {made[:8]}… but {path} is {sha256[:8]}…; run "
            f"`clipgen encode` again with replace=true, or point tokenizer.ckpt at the old one"
        )
    if clip is None:
        return
    made = latents.made_by["clip"]["fingerprint"]
    if made != clip.identity.fingerprint():
        raise UserError(
            f"{folder}/manifest.json was made with CLIP {latents.made_by['clip']['model']} ({made[:8]}…) but "
            f"clip.model={clip.identity.model} is {clip.identity.fingerprint()[:8]}…; run `clipgen encode` again with "
            f"replace=true, or set clip.model back"
        )
