"""`clipgen sample`: prompts → numbered PNGs, a labelled grid, and samples.jsonl."""

import json
import sys
import time
from pathlib import Path

from clipgen.cli.mix import read_mix
from clipgen.config import GENERATION, SampleConfig
from clipgen.errors import UserError


def main(cfg: SampleConfig, prompts: list[str]) -> None:
    from clipgen.clip.texts import read_texts

    texts = [*prompts, *(read_texts(cfg.prompts, f"prompts={cfg.prompts}", "prompt") if cfg.prompts else [])]
    if cfg.n < 1:
        raise UserError(f"n={cfg.n}; take at least 1")
    if not (texts or cfg.image or cfg.mix):
        raise UserError(
            'there is no prompt; type one in quotes, such as "a red bird", or give prompts=FILE, image=FILE or mix=FILE'
        )
    if cfg.image and cfg.mix:
        raise UserError(f"image={cfg.image} and mix={cfg.mix} were both given; name the image in the mix")
    file = f"image={cfg.image}" if cfg.image else f"mix={cfg.mix}"
    if texts and (cfg.image or cfg.mix):
        raise UserError(f"{file} and prompts were both given; sample from one of them at a time")
    parts = read_mix(cfg.mix) if cfg.mix else []
    for text in [*texts, *([] if cfg.negative is None else [cfg.negative])]:
        if not text.strip():
            raise UserError('a prompt is empty (""); say what the image shows')
    if not (Path(cfg.model) / "config.json").is_file():
        raise UserError(f"model={cfg.model} is no model folder; give one that a run made, such as outputs/NAME/model")

    from tqdm import tqdm

    from clipgen.cli.machine import pick_device
    from clipgen.data.atomic import replacing
    from clipgen.picture import image_grid
    from clipgen.pipeline import ClipGen

    pipeline = ClipGen.from_pretrained(cfg.model, pick_device(cfg.device))
    sampling = {key: cfg[key] for key in GENERATION}
    negative = [] if cfg.negative is None else [cfg.negative]
    asked = [*texts, *negative, *(value for value, kind, _ in parts if kind == "text")]
    for text in pipeline.clip.too_long(asked):
        print(f'sample: "{text[:40]}…" fills the context of this CLIP; what goes beyond is cut', file=sys.stderr)
    began = time.perf_counter()
    if cfg.image:
        images = pipeline.vary(open_image(cfg.image, file), cfg.n, cfg.seed, cfg.negative, **sampling)
        labels, scores = [f"like {Path(cfg.image).name}"], [None] * cfg.n
    elif parts:
        opened = [(open_image(value, file) if kind == "image" else value, weight) for value, kind, weight in parts]
        images = pipeline.mix(opened, cfg.n, cfg.seed, cfg.negative, **sampling)
        labels, scores = [f"mix {Path(cfg.mix).name}"], [None] * cfg.n
    else:
        with tqdm(total=cfg.n * len(texts), desc="generating", unit="img") as bar:
            images = pipeline.generate(texts, cfg.n, cfg.seed, bar.update, cfg.negative, **sampling)
        labels, scores = texts, pipeline.scores(images, [text for text in texts for _ in range(cfg.n)])
    seconds = time.perf_counter() - began
    out = Path(cfg.out)
    used = pipeline.sampling | {key: value for key, value in sampling.items() if value is not None}
    if cfg.image and cfg.fidelity is None:
        used["fidelity"] = 1.0
    lines = []
    for i, (image, score) in enumerate(zip(images, scores, strict=True)):
        name = f"{i:05d}.png"
        with replacing(out / name) as path:
            image.save(path, format="PNG")
        line = {"file": name, "prompt": texts[i // cfg.n] if texts else None, "image": cfg.image}
        line |= {"mix": parts or None, "negative": cfg.negative}
        line |= {"number": i % cfg.n, "seed": cfg.seed, "settings": used, "model": cfg.model, "clip_score": score}
        lines.append(line | {"clip_score_by": "the conditioning CLIP"})
    with replacing(out / "samples.jsonl") as path:
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    with replacing(out / "grid.png") as path:
        columns = min(cfg.n, 8)
        rows = -(-cfg.n // columns)
        headings = [label if row == 0 else "" for label in labels for row in range(rows)]
        image_grid(_filled(images, cfg.n, rows * columns), columns, headings).save(path, format="PNG")
    mean = "" if not texts else f", mean CLIP score {sum(scores) / len(scores):.3f} (the conditioning CLIP's own)"
    print(f"sample: {len(images)} images in {out} ({len(images) / seconds:.1f} images/s{mean}); look at {out}/grid.png")


def _filled(images: list, n: int, wide: int) -> list:
    """Each prompt's images padded with white to whole rows."""
    from PIL import Image

    white = Image.new("RGB", images[0].size, "white")
    return [
        image for start in range(0, len(images), n) for image in [*images[start : start + n], *[white] * (wide - n)]
    ]


def open_image(path: str, name: str):
    from PIL import Image, UnidentifiedImageError

    from data_prep.decode import SetAside, decode

    try:
        return decode(Path(path).read_bytes(), Image.MAX_IMAGE_PIXELS)
    except (OSError, UnidentifiedImageError, SetAside) as problem:
        where = name if name == f"image={path}" else f"{name}: {path}"
        raise UserError(f"{where} cannot be read as an image ({problem}); give another file") from problem
