"""From settings to objects: networks, modules, and a Trainer with everything a stage logs and saves."""

import csv
import io
import os
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import ModelParallelStrategy

from clipgen.callbacks.image_grid import ImageGrid
from clipgen.callbacks.interrupt import SaveOnInterrupt
from clipgen.callbacks.progress import Progress
from clipgen.callbacks.throughput import Throughput
from clipgen.checkpoint import weights_sha256
from clipgen.cli.imports import read_tokenizer, read_transformer
from clipgen.cli.machine import pick_device
from clipgen.clip.frozen import LOCAL_DIR, FrozenClip, load_clip
from clipgen.config import Config, Tokenizer, Trainer, TransformerModel, VQGANTraining, asdict_of
from clipgen.data.atomic import replacing
from clipgen.data.size import sides
from clipgen.errors import UserError
from clipgen.ranks import rank, world_size
from clipgen.tokenizer.adversary import Adversary
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.model import Transformer

VQGAN_KEYS = (
    "image_size", "codebook_size", "code_dim", "channels", "channel_multipliers", "res_blocks",
    "attention_resolutions", "z_channels", "dropout", "norm_groups", "norm_eps", "patch", "network",
    "quantizer", "commitment", "unit_codes", "legacy", "decay", "kl_weight", "levels",
)  # fmt: skip
VQGAN_TRAINING_KEYS = (
    "steps", "lr", "warmup", "lr_final", "betas", "accumulate", "continuous_steps", "usage_window", "restart_dead",
    "gumbel_temperature", "pixel_loss", "perceptual_weight", "gan_warmup", "gan_weight", "gan_lr", "clip_norm",
)  # fmt: skip
TRANSFORMER_KEYS = (
    "level_token",
    "width",
    "depth",
    "heads",
    "n_prefix",
    "cond_drop_prob",
    "dropout",
    "rope_base",
    "style",
    "gft",
    "centred",
    "condition",
)
PAIRED_KEYS = ("width", "depth", "heads", "dropout", "rope_base", "style")  # of `transformer`
TOKEN_TRAINING_KEYS = (
    "steps", "accumulate", "optimizer", "lr", "muon_lr", "weight_decay", "warmup", "schedule", "lr_final", "clip_norm",
    "label_smoothing", "z_loss",
)  # fmt: skip
TRANSFORMER_TRAINING_KEYS = (*TOKEN_TRAINING_KEYS, "min_level", "aux_weight", "rar", "rar_anneal")


def tokenizer_settings(cfg: Tokenizer) -> dict[str, Any]:
    """What `VQGAN(**settings)` takes."""
    return {key: value for key, value in asdict_of(cfg).items() if key in VQGAN_KEYS}


def gan_start(cfg: VQGANTraining) -> int:
    """The batch at which the GAN begins: `gan_start` itself, or below 1 that share of the training."""
    return int(cfg.gan_start * cfg.steps) if cfg.gan_start < 1 else int(cfg.gan_start)


def make_adversary(cfg: Tokenizer) -> Adversary:
    """The discriminator of the config."""
    return Adversary(cfg.train.gan_layers, cfg.train.gan_channels, cfg.train.gan_norm, cfg.train.lecam)


def check_adversary(cfg: Tokenizer) -> None:
    """UserError where the discriminator needs larger pictures; no random number is drawn."""
    t = cfg.train
    try:
        with torch.no_grad(), torch.device("meta"):
            make_adversary(cfg)(torch.empty(2, 3, *sides(cfg.image_size)))
    except RuntimeError as problem:
        raise UserError(
            f"tokenizer.train.gan_layers={t.gan_layers} halve pictures of tokenizer.image_size={cfg.image_size} too "
            f"often; take fewer, or gan_weight=0"
        ) from problem


def transformer_settings(cfg: TransformerModel, grid, codebook_size: int, embed_dim: int) -> dict[str, Any]:
    """What `Transformer(**settings)` takes."""
    own = {key: value for key, value in asdict_of(cfg).items() if key in TRANSFORMER_KEYS}
    own["any_order"] = cfg.train.keep_random
    if own["condition"] == "image":  # as ever: what was trained before there was a choice is not trained again
        del own["condition"]
    return {"grid": list(grid), "codebook_size": codebook_size, "embed_dim": embed_dim, **own}


def paired_settings(cfg: Config, grid, codebook_size: int, pieces: int, text_length: int) -> dict[str, Any]:
    """What `PairedTransformer(**settings)` takes, and `CaptionTransformer(**settings)`."""
    m, p = cfg.transformer, cfg.paired
    own = {key: value for key, value in asdict_of(m).items() if key in PAIRED_KEYS}
    own |= {"sandwich": p.sandwich, "pb_relax": p.pb_relax, "shrink_gradient": p.shrink_gradient}
    if p.window:  # as ever: what was trained before there was a choice is not trained again
        own |= {"window": p.window, "pivots": p.pivots}
    sizes = {"grid": list(grid), "codebook_size": codebook_size, "pieces": pieces, "text_length": text_length}
    return sizes | own | {"text_drop_prob": 0.0 if cfg.task == "caption" else m.cond_drop_prob}


def upscale_settings(cfg: Config, grid, codebook_size: int) -> dict[str, Any]:
    """What `UpscaleTransformer(**settings)` takes: it writes windows of the size that the other stages write."""
    if any(side % 2 for side in grid):
        raise UserError(f"stage=super halves the token grid {list(grid)} for its windows; take latents of even sides")
    own = {key: value for key, value in asdict_of(cfg.transformer).items() if key in PAIRED_KEYS}
    own |= {"sandwich": cfg.paired.sandwich, "pb_relax": cfg.paired.pb_relax}
    return {"window": [side // 2 for side in grid], "codebook_size": codebook_size, **own}


def load_tokenizer(path: str | Path, yaml: str | Path | None = None) -> tuple[VQGAN, dict[str, Any], str]:
    """(VQGAN in eval mode, its settings, sha256 of its weights) from a checkpoint, ours or a published one."""
    settings, state = read_tokenizer(path, yaml)
    vqgan = VQGAN(**settings)
    vqgan.load_state_dict(state)
    return vqgan.eval().to(memory_format=torch.channels_last), settings, tokenizer_sha256(state)


@lru_cache(1)
def _load_clip(model: str, pretrained: str | None, files: tuple, setting: str) -> FrozenClip:
    return load_clip(model, pretrained, setting=setting)


def load_clip_once(
    model: str, pretrained: str | None, device: str | torch.device | None = None, setting: str = "clip."
) -> FrozenClip:
    """`load_clip` for a process that asks for the same one again and again: the stages of a run share it.

    Without a `device` it stays where it is, as another part may be at work with it.
    """
    folder = Path(model.removeprefix(LOCAL_DIR)) if model.startswith(LOCAL_DIR) else None
    files = sorted(folder.iterdir()) if folder and folder.is_dir() else []
    clip = _load_clip(model, pretrained, tuple((file, file.stat().st_mtime_ns) for file in files), setting)
    return clip if device is None else clip.to(device)


def tokenizer_sha256(state: dict[str, torch.Tensor]) -> str:
    """Of the weights alone: the count of used codes goes on without changing what a token means."""
    return weights_sha256({name: tensor for name, tensor in state.items() if not name.endswith("used_K")})


def load_transformer(path: str | Path) -> tuple[Transformer, dict[str, Any], dict[str, str]]:
    """(Transformer in eval mode, its settings, what it was trained with) of a checkpoint, ours or the published one."""
    settings, weights, inputs = read_transformer(path)
    transformer = Transformer(**settings)
    transformer.load_state_dict(weights)
    return transformer.eval(), settings, inputs


def tokenizer_path(cfg: Config) -> Path:
    """The checkpoint in use: `tokenizer.ckpt`, else that of the run."""
    return Path(cfg.tokenizer.ckpt) if cfg.tokenizer.ckpt else Path(cfg.out) / "vqgan" / "last.ckpt"


def make_trainer(
    cfg: Trainer,
    precision: str,
    folder: Path,
    steps: int,
    batches: int,
    batch_size: int,
    monitor: str | None,
    draw: Callable[[], Image.Image] | None,
    own: Sequence[pl.Callback] = (),
    shared_out: bool = False,
    validates: bool = True,
) -> pl.Trainer:
    """One "epoch" of `steps` batches, `batches` of them already trained, with the stage's `own` callbacks.

    With `shared_out` each rank holds a part of the weights (FSDP). Validation and `last.ckpt` come about every
    `val_every` batches, pictures every `grid_every`; with a `monitor`, `best.ckpt` is that with the least of it.
    """
    device = pick_device(cfg.device)
    best = MovableCheckpoint(folder, "best", monitor=monitor, mode="min", enable_version_counter=False)
    last = MovableCheckpoint(folder, "last", save_top_k=1, enable_version_counter=False)
    callbacks = [*own, best, last] if monitor else [*own, last]  # own ones first: what is saved is after them
    save = SaveOnInterrupt(folder / "last.ckpt", None if validates else cfg.val_every)
    callbacks += [Throughput(batch_size), Progress(folder.name), save]
    if draw is not None:
        callbacks.append(ImageGrid(folder / "grids", draw, cfg.grid_every))
    return pl.Trainer(
        max_epochs=1,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=world_size() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        strategy=_strategy(shared_out),
        precision=precision,
        use_distributed_sampler=False,
        val_check_interval=steps // max(1, round(steps / cfg.val_every)),
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=[_logger(name, folder, batches) for name in cfg.loggers] if rank() == 0 else False,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), *([TorchElasticEnvironment()] if world_size() > 1 else [])],
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _strategy(shared_out: bool) -> str | ModelParallelStrategy:
    """With `shared_out` each rank holds a part of the weights only (FSDP); a checkpoint is whole all the same."""
    if shared_out:
        return ModelParallelStrategy(world_size(), 1, save_distributed_checkpoint=False)
    # the adversary has no part in the autoencoder's loss, and the other way round
    return "ddp_find_unused_parameters_true" if world_size() > 1 else "auto"


class MovableCheckpoint(ModelCheckpoint):
    """Knows what was best where the folder has moved since; Lightning's then takes the next one for the best."""

    @property
    def state_key(self) -> str:
        """Lightning's own, as in the checkpoints of before."""
        return super().state_key.replace(type(self).__qualname__, "ModelCheckpoint", 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return path and str(Path(self.dirpath) / Path(path).name)

        paths = {key: here(state_dict[key]) for key in state_dict if key.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": best})


class WholeCheckpoints(TorchCheckpointIO):
    """A full disk leaves the checkpoint of before; Lightning alone leaves half a file where TMPDIR is another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        buffer = io.BytesIO()  # torch writing to a file itself would report a full disk as a RuntimeError
        torch.save(checkpoint, buffer)
        with replacing(path) as temporary, buffer.getbuffer() as content:  # one left open crashes Python 3.12.1
            temporary.write_bytes(content)


def _logger(name: str, folder: Path, batches: int) -> Logger:
    if name == "csv":
        return AppendingCSVLogger(folder, batches)
    if name == "tensorboard":
        return TensorBoardLogger(folder.parent, name=folder.name, version="tensorboard")
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(name=folder.parent.name + "/" + folder.name, save_dir=folder, project="clipgen")


class AppendingCSVLogger(CSVLogger):
    """Lightning's, writing `metrics.csv` into the stage's own folder and keeping the rows from before a resume."""

    def __init__(self, folder: Path, batches: int):
        path, aside = folder / "metrics.csv", folder / ".metrics.csv"
        source = aside if aside.exists() else path
        with open(source, newline="") if source.exists() else io.StringIO() as file:
            content = file.read()
        rows = csv.DictReader(io.StringIO(content))
        kept = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) < batches]
        with replacing(aside) as temporary:  # until all is written again: Lightning begins by deleting the file
            temporary.write_text(content, newline="")
        super().__init__(folder.parent, name=folder.name, version="", flush_logs_every_n_steps=10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the folder is not empty
            writer = self.experiment
        if kept:
            writer.metrics = [{name: value for name, value in row.items() if value} for row in kept]
            writer.save()
        aside.unlink()
