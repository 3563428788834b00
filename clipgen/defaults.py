"""Settings that were left open, chosen from the images and the machine: one table, each choice with its reason."""

import math
from dataclasses import dataclass

from clipgen.config import Config
from clipgen.data.size import sides
from clipgen.errors import UserError

SIZES = (256, 128, 64, 32)
MULTIPLIERS = {2: [1, 2], 4: [1, 2, 2], 8: [1, 2, 2, 4], 16: [1, 1, 2, 2, 4]}  # by the networks' own downsampling
MULTIPLIERS_OF_PATCHES = {1: [1], 2: [1, 1], 4: [1, 1, 2], 8: [1, 1, 2, 2]}  # and where they see patches

ADVERSARY = {  # on CPU cores; on a GPU tokenizer=modern_f16_16384's
    "gan_start": (0.8, 0.2), "gan_weight": (0.1, 0.5), "gan_layers": (2, 3), "gan_channels": (32, 64),
    "gan_lr": (2e-4, 1e-4), "lecam": (0.0, 0.001),
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What the choices depend on. `side` is the shortest side of the images, in pixels."""

    n_images: int
    side: int
    gpu: bool
    cores: int


@dataclass(frozen=True)
class Choice:
    key: str
    value: object
    reason: str


def choose_image_size(cfg: Config, side: int, gpu: bool) -> list[Choice]:
    """Fill `tokenizer.image_size` from the images' size; needed before packing."""
    if cfg.tokenizer.image_size is not None:
        return []
    if cfg.prep.size is not None:
        cfg.tokenizer.image_size = cfg.prep.size
        return [Choice("tokenizer.image_size", cfg.prep.size, "prep.size")]
    most = 256 if gpu else 64
    size = next((s for s in SIZES if s <= min(side, most)), None)
    if size is None:
        raise UserError(f"images={cfg.images}: the images are {side} pixels small, 32 is the least; give larger ones")
    cfg.tokenizer.image_size = size
    limit = f"the most for {'a GPU' if gpu else 'CPU cores'} is {most}"
    return [Choice("tokenizer.image_size", size, f"images have {side} pixels or more, {limit}")]


def choose(cfg: Config, facts: Facts) -> list[Choice]:
    """Fill every null of `cfg` in place and tell what was chosen and why."""
    choices: list[Choice] = []

    def fill(section, key: str, value, reason: str) -> None:
        name = key.rpartition(".")[2]
        if getattr(section, name) is None:
            setattr(section, name, value)
            choices.append(Choice(key, value, reason))

    t, m = cfg.tokenizer, cfg.transformer
    machine = "GPU" if facts.gpu else f"{facts.cores} CPU cores"
    images = f"{facts.n_images:,} images"
    size = min(sides(t.image_size))
    if t.channel_multipliers is not None:
        fill(t, "tokenizer.patch", 1, "tokenizer.channel_multipliers")
        of_networks = 2 ** (len(t.channel_multipliers) - 1)
        fill(t, "tokenizer.downsample", t.patch * of_networks, "tokenizer.channel_multipliers")
    by_size = {32: 4, 64: 8, 128: 16 if not facts.gpu else 8}.get(size, 16 if size >= 128 else 4)
    fill(t, "tokenizer.downsample", by_size, f"{size // by_size}×{size // by_size} tokens of a {size} px image")
    fill(t, "tokenizer.patch", 1 if facts.gpu or t.downsample < 4 else 2, machine)
    multipliers = (MULTIPLIERS if t.patch == 1 else MULTIPLIERS_OF_PATCHES).get(t.downsample // t.patch)
    if multipliers is None and t.channel_multipliers is None:
        raise UserError(
            f"tokenizer.downsample={t.downsample} with tokenizer.patch={t.patch}; take a downsample of 2, 4, 8 or 16, "
            "or give tokenizer.channel_multipliers"
        )
    fill(t, "tokenizer.channel_multipliers", multipliers, f"downsample {t.downsample}, patches of {t.patch}")
    fill(t, "tokenizer.channels", (128 if size >= 128 else 64) if facts.gpu else 32 * t.patch, machine)
    fill(t, "tokenizer.res_blocks", 2 if facts.gpu else 1, machine)
    fill(t, "tokenizer.norm_groups", {32: 4, 64: 8}.get(t.channels, 32), f"{t.channels} channels")
    large = 16_384 if facts.n_images >= 500_000 else 4096 if facts.n_images >= 50_000 else 1024
    if t.quantizer == "fsq":
        fill(t, "tokenizer.codebook_size", math.prod(t.levels), f"levels {list(t.levels)}")
    fill(t, "tokenizer.codebook_size", large if facts.gpu else 512, f"{images}, {machine}")
    fill(t.train, "tokenizer.train.batch_size", 64 if facts.gpu else 32, machine)
    gpu_steps = _between(5_000, 30 * facts.n_images // t.train.batch_size, 150_000)
    fill(t.train, "tokenizer.train.steps", gpu_steps if facts.gpu else 1500, f"{images}, {machine}")
    drawn = t.quantizer in ("nearest", "moving_average")
    first, why = (min(100, t.train.steps // 10), f"{t.train.steps} steps") if drawn else (0, f"quantizer {t.quantizer}")
    fill(t.train, "tokenizer.train.continuous_steps", first, why)
    modern = "GPU, as tokenizer=modern_f16_16384" if facts.gpu else machine
    fill(t.train, "tokenizer.train.ema", 0.999 if facts.gpu else 0.0, modern)
    for key, values in ADVERSARY.items():
        fill(t.train, f"tokenizer.train.{key}", values[facts.gpu], modern)
    rise = min(1000, t.train.steps // 10) if facts.gpu else 0
    fill(t.train, "tokenizer.train.gan_warmup", rise, f"{modern}, {t.train.steps} steps")
    fill(t.train, "tokenizer.train.lr", 1e-3 if t.channels <= 64 else 2e-4, f"{t.channels} channels")

    small, base = facts.n_images < 100_000, facts.n_images < 1_000_000
    width, depth = ((384, 8) if small else (768, 12) if base else (1024, 24)) if facts.gpu else (192, 5)
    fill(m, "transformer.width", width, f"{images}, {machine}")
    fill(m, "transformer.depth", depth, f"{images}, {machine}")
    fill(m, "transformer.heads", heads_for(m.width), f"heads of {m.width // heads_for(m.width)}")
    fill(m, "transformer.dropout", 0.1 if facts.n_images < 10_000 else 0.0, images)
    fill(m.train, "transformer.train.batch_size", 256 if facts.gpu else 64, machine)
    gpu_steps = _between(5_000, 100 * facts.n_images // m.train.batch_size, 300_000)
    fill(m.train, "transformer.train.steps", gpu_steps if facts.gpu else 1500, f"{images}, {machine}")

    if cfg.trainer.strategy == "fsdp":
        fill(m.train, "transformer.train.ema", 0.0, "trainer.strategy=fsdp averages no weights")
    fill(m.train, "transformer.train.ema", 0.999 if facts.gpu else 0.0, machine)
    fill(
        m.train, "transformer.train.lr", 3e-3 if m.train.optimizer == "muon" else 1e-3, f"optimizer {m.train.optimizer}"
    )

    shortest = cfg.clip.train.steps if cfg.stage == "clip" else min(t.train.steps, m.train.steps)
    fill(cfg.trainer, "trainer.val_every", _between(1, shortest // 8, 2000), f"{shortest} steps")
    fill(cfg.trainer, "trainer.grid_every", _between(1, shortest // 8, 2000), f"{shortest} steps")
    fill(cfg.prep, "prep.workers", facts.cores, f"{facts.cores} CPU cores")
    return choices


def heads_for(width: int) -> int:
    """Those of 64, or so many that a head has about that and a multiple of 4; 1 where the width has none."""
    fitting = [heads for heads in range(1, width // 4 + 1) if width % (4 * heads) == 0]
    plain = max(1, width // 64)
    return plain if plain in fitting else min(fitting, key=lambda heads: abs(math.log(width / heads / 64)), default=1)


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
