"""Model folders of all kinds: a generator with its CLIP, a captioner, or what enlarges; never a pickle."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clipgen.caption_pipeline import Captioner
from clipgen.checkpoint import load_weights, save_weights
from clipgen.clip.frozen import LOCAL_DIR, WEIGHT_FILES, ClipIdentity, FrozenClip, load_clip
from clipgen.data.atomic import explained, replacing, sha256_file, write_json
from clipgen.errors import UserError
from clipgen.paired.captioner import CaptionTransformer
from clipgen.paired.model import PairedTransformer
from clipgen.paired.text import FILE as TEXT
from clipgen.paired.text import Text
from clipgen.paired_pipeline import PairedGen
from clipgen.pipeline import BANK, STATISTICS, ClipGen
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.model import CausalTransformer, Transformer
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscaler import Upscaler

FORMAT = 1
CLIP_FILES = (".json", ".safetensors", ".txt", ".model")
MEANS = ("image_mean", "text_mean")


def load(folder: str | Path, device: str | torch.device = "cpu") -> ClipGen:
    """The generator in a folder; UserError when a part is missing or does not fit."""
    folder = Path(folder)
    config = _read_config(folder)
    kind = config.get("kind", ClipGen.kind)
    if kind == Captioner.kind:
        raise UserError(
            f"{folder} is a captioner, which makes no pictures; give a generator, or ask it by `clipgen caption "
            f"model={folder} image=FILE`"
        )
    if kind == Upscaler.kind:
        raise UserError(f"{folder} enlarges pictures and reads no text; give it as upscale=FOLDER, beside a model")
    if kind not in (ClipGen.kind, PairedGen.kind):
        raise UserError(f"{folder}/config.json is of kind {kind}, which this clipgen does not know; update clipgen")
    with _readable(folder):
        settings, wanted, sampling = config["settings"], config["clip"], config["sampling"]
        paired = kind == PairedGen.kind
        part = ("paired", PairedTransformer) if paired else ("transformer", Transformer)
        vqgan, network = _networks(folder, settings, *part)
        clip = _load_clip(folder, **{key: wanted[key] for key in ("folder", "model", "pretrained", "fingerprint")})
    if paired:
        return PairedGen(vqgan, network, clip, Text.load(folder / TEXT), sampling, settings, device)
    path = folder / STATISTICS
    statistics = load_weights(path)
    for mean in MEANS:
        if network.centred and mean not in statistics:
            raise UserError(f"{path} has no {mean}; export the model again")
    bank_NE = load_weights(folder / BANK)["image"] if (folder / BANK).is_file() else None
    return ClipGen(vqgan, network, clip, statistics, sampling, settings, device, bank_NE)


def load_captioner(folder: str | Path, device: str | torch.device = "cpu") -> Captioner:
    """The captioner in a folder; UserError when a part is missing or does not fit, or it is something else."""
    folder = Path(folder)
    config = _read_config(folder)
    if config.get("kind") != Captioner.kind:
        raise UserError(
            f"{folder} is a generator, not a captioner; train one with `clipgen train stage=paired task=caption`"
        )
    with _readable(folder):
        settings = config["settings"]
        vqgan, network = _networks(folder, settings, "paired", CaptionTransformer)
    return Captioner(vqgan, network, Text.load(folder / TEXT), settings, device)


def load_upscaler(folder: str | Path, device: str | torch.device = "cpu") -> Upscaler:
    """What enlarges, from a folder; UserError when a part is missing or does not fit, or it is something else."""
    folder = Path(folder)
    config = _read_config(folder)
    if config.get("kind") != Upscaler.kind:
        raise UserError(f"{folder} is no model that enlarges; give one made by `clipgen export stage=super`")
    with _readable(folder):
        settings, sampling = config["settings"], config["sampling"]
        vqgan, network = _networks(folder, settings, "super", UpscaleTransformer)
        return Upscaler(vqgan, network, sampling, settings, device)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config["format"]
    except FileNotFoundError as problem:
        raise UserError(
            f"model={folder} has no config.json; give the model folder of a run, such as outputs/NAME/model"
        ) from problem
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder}/config.json is not readable ({problem}); export the model again") from problem
    if found != FORMAT:
        raise UserError(f"{folder}/config.json has format {found}, but this clipgen reads {FORMAT}; update clipgen")
    return config


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """What is missing in a config, or unknown to what is built from it, is a UserError."""
    try:
        yield
    except (KeyError, TypeError) as problem:
        raise UserError(f"{folder}/config.json is not readable ({problem}); export the model again") from problem


def _networks(
    folder: Path, settings: dict[str, Any], part: str, kind: type[CausalTransformer]
) -> tuple[VQGAN, CausalTransformer]:
    """The VQGAN and the Transformer, whose settings are named `part`; UserError when weights are missing or misfit."""
    vqgan, network = VQGAN(**settings["tokenizer"]), kind(**settings[part])
    for each, name in ((vqgan, "tokenizer"), (network, "transformer")):
        path = folder / f"{name}.safetensors"
        try:
            each.load_state_dict(load_weights(path))
        except RuntimeError as problem:
            raise UserError(f"{path} does not fit {folder / 'config.json'}; export the model again") from problem
    return vqgan, network


def _load_clip(at: Path, folder: bool, model: str | None, pretrained: str | None, fingerprint: str) -> FrozenClip:
    name = f"{LOCAL_DIR}{at / 'clip'}" if folder else model
    clip = load_clip(name, pretrained)
    if clip.identity.fingerprint() != fingerprint:
        raise UserError(
            f"model={at} was trained with CLIP {fingerprint[:8]}… but {name} is "
            f"{clip.identity.fingerprint()[:8]}…; export it again, or bring the weights of then"
        )
    return clip


def save(pipeline: ClipGen, folder: Path) -> None:
    """Write all of it, config.json last."""
    _begin(folder)
    identity = pipeline.clip.identity
    local = identity.model.startswith(LOCAL_DIR)
    if local:
        identity = _copy_clip(pipeline.clip, Path(identity.model.removeprefix(LOCAL_DIR)), folder / "clip")
    clip = {
        "folder": local,
        "model": None if local else identity.model,
        "pretrained": identity.pretrained,
        "sha256": identity.sha256,
        "fingerprint": identity.fingerprint(),
    }
    files = {STATISTICS: None, BANK: None, TEXT: None} | pipeline.own_files()
    write(pipeline, folder, files, {"sampling": pipeline.sampling, "clip": clip})


def _begin(folder: Path) -> None:
    """From here until it is whole again, an earlier model in `folder` is none."""
    with explained(folder):
        (folder / "config.json").unlink(missing_ok=True)


def write(model: Any, folder: Path, files: dict[str, Any], more: dict[str, Any]) -> None:
    """Its networks, `files` (tensors, bytes, or None to have none), the card, and config.json with `more`, last."""
    _begin(folder)
    save_weights(model.vqgan.state_dict(), folder / "tokenizer.safetensors")
    save_weights(model.transformer.state_dict(), folder / "transformer.safetensors")
    for name, content in files.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        elif isinstance(content, bytes):
            with replacing(folder / name) as path:
                path.write_bytes(content)
        else:
            save_weights(content, folder / name)
    with replacing(folder / "README.md") as path:
        path.write_text(model.card(), encoding="utf-8")
    config = {"format": FORMAT, "kind": model.kind, "settings": model.settings}
    write_json(folder / "config.json", config | more)


def _copy_clip(clip: FrozenClip, source: Path, target: Path) -> ClipIdentity:
    if source.resolve() == target.resolve():
        return clip.identity
    with explained(target):
        for file in target.glob("*"):  # an earlier CLIP's, whose weights might be taken
            if file.suffix in CLIP_FILES:
                file.unlink()
    for file in sorted(file for file in source.iterdir() if file.is_file() and file.suffix in CLIP_FILES):
        with replacing(target / file.name) as path:
            shutil.copyfile(file, path)
    if any((source / name).is_file() for name in WEIGHT_FILES if name.endswith(".safetensors")):
        return clip.identity
    weights = target / WEIGHT_FILES[0]  # they came as a pickle
    save_weights(clip.model.state_dict(), weights)
    return dataclasses.replace(clip.identity, sha256=sha256_file(weights))
