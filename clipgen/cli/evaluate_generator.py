"""`clipgen evaluate model=… shards=…`: samples of a generator against the pictures of shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipgen.cli.say import say_cut
from clipgen.data.atomic import replacing
from clipgen.data.module import ImageData
from clipgen.data.sample import decode_captions
from clipgen.errors import UserError
from clipgen.evaluation.extractors import Extractor
from clipgen.evaluation.metrics import Figure, Pictures, against, copies
from clipgen.evaluation.prompts import clip_figures
from clipgen.picture import image_grid
from clipgen.tools import EvaluateConfig

SHOWN = 12  # prompts in the picture
ROWS = 1000  # training pictures read at a time


def held_out(cfg: EvaluateConfig, shards: str | Path, image_size: int | list[int]) -> ImageData:
    """The validation pictures of shards at the tokenizer's size; UserError where there are none."""
    if cfg.val_samples < 1:
        raise UserError(f"val_samples={cfg.val_samples} leaves no picture to evaluate on; take at least 1")
    data = ImageData(shards, image_size, cfg.batch_size or 50, 1, val_samples=cfg.val_samples)
    if not data.n_val:
        raise UserError(
            f"{shards} has no validation pictures to evaluate on; make shards with prep.val_fraction above 0, "
            "or give others with shards=FOLDER"
        )
    data.setup("validate")
    return data


def captions(data: ImageData) -> list[str]:
    """The first caption of each validation picture that has one."""
    shards = data.shards("val")
    every = (decode_captions(shards[i]) for i in range(data.n_val))
    return [found[0] for found in every if found and found[0].strip()]


def pictures_of(data: ImageData) -> Pictures:
    """The validation pictures, to compare samples with."""
    pixels = torch.cat([data.val_batches.plain(rows)["image"] for rows in _parts(data.n_val)])
    return Pictures(pixels, f"validation pictures of {_named(data)}")


def compared(
    cfg: EvaluateConfig,
    samples: Pictures,
    reference: Pictures,
    prompts: int,
    data: ImageData,
    at_hand: dict[str, Extractor],
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures by EXTRACTOR.NAME (EXTRACTOR.circular.NAME where its CLIP conditioned), and what is left out."""
    figures, left_out, measured = {}, {}, set()
    for extractor in at_hand.values():
        found, without = against(samples, reference, extractor, prompts)
        for name, figure in found.items():
            figures[f"{extractor.name}.{'circular.' if figure.circular else ''}{name}"] = figure
        left_out |= without
        measured |= set(found)
    left_out = {name: why for name, why in left_out.items() if name not in measured}
    if not cfg.nearest:
        left_out["nearest"] = "nearest=0"
        return figures, left_out
    looked_up = {"nearest": samples, "nearest.held_out": reference}
    some = {name: _some(pictures.pixels_NHWC, cfg.nearest) for name, pictures in looked_up.items()}
    training = (data.train_batches.plain(rows) for rows in _parts(data.n_train))
    return figures | copies(some, training, f"{data.n_train:,} training pictures of {_named(data)}"), left_out


def scored(cfg: EvaluateConfig, samples: Pictures, texts: Sequence[str], extractor: Extractor) -> dict[str, float]:
    """Scores of samples of the prompts by the CLIP of `clip.model`."""
    say_cut(extractor.network.clip, texts, f"clip.model={cfg.clip.model}")
    figures = clip_figures(samples, texts, extractor.network.clip)
    if extractor.fingerprint in samples.made_with:
        print(f"clip.model={cfg.clip.model} is what conditioned the samples: its figures are circular")
        figures = {name.replace("clip.", "clip.circular.", 1): value for name, value in figures.items()}
    return figures


def show(cfg: EvaluateConfig, images: Sequence[Image.Image], texts: Sequence[str]) -> None:
    """Beside `out` a picture of some prompts: FILE.json has FILE.png."""
    picks = range(0, len(texts), max(1, len(texts) // SHOWN))[:SHOWN]
    shown = [np.asarray(image) for i in picks for image in images[i * cfg.n : (i + 1) * cfg.n]]
    with replacing(f"{cfg.out.removesuffix('.json')}.png") as path:
        image_grid(shown, cfg.n, [texts[i] for i in picks]).save(path, format="PNG")


def _named(data: ImageData) -> str:
    return f"{data.folder} (manifest {data.manifest.content[:8]})"


def _parts(n: int) -> Iterator[range]:
    return (range(start, min(start + ROWS, n)) for start in range(0, n, ROWS))


def _some(pixels_NHWC: torch.Tensor, n: int) -> torch.Tensor:
    """At most n, evenly spaced, so that they are of many prompts."""
    return pixels_NHWC[torch.linspace(0, len(pixels_NHWC) - 1, min(n, len(pixels_NHWC))).long()]
