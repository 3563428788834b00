"""`clipgen sample`: prompts → numbered PNGs, a labelled grid, and samples.jsonl, in place of those of before."""

import json
import re
import time
from contextlib import suppress
from pathlib import Path

from clipgen.cli.mix import read_mix
from clipgen.cli.say import say_cut
from clipgen.errors import UserError
from clipgen.tools import GENERATION, SampleConfig


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
    if texts and (cfg.image or cfg.mix) and not cfg.mask:
        raise UserError(f"{file} and prompts were both given; sample from one of them at a time")
    if cfg.mask and (not cfg.image or len(texts) > 1):
        raise UserError(f"mask={cfg.mask} completes one image; give image=FILE, and at most one prompt")
    if cfg.candidates is None and cfg.keep is not None:
        raise UserError(f"keep={cfg.keep} of how many? give candidates=32, or n={cfg.keep} for as they come")
    if cfg.candidates is None and cfg.rerank is not None:
        raise UserError(f"rerank={cfg.rerank} has nothing to rank; give candidates=32, or leave it out")
    if cfg.candidates is not None and (cfg.image or cfg.mix):
        raise UserError(f"candidates={cfg.candidates} are ranked by a prompt; leave out {file}")
    if cfg.rerank == "caption" and cfg.captioner is None:
        raise UserError(
            "rerank=caption needs captioner=FOLDER, as `clipgen export stage=paired task=caption` makes it; or take "
            "rerank=clip"
        )
    if cfg.captioner is not None and cfg.rerank != "caption":
        raise UserError(f"captioner={cfg.captioner} has nothing to rank; give candidates=32 rerank=caption too")
    parts = read_mix(cfg.mix) if cfg.mix else []
    for text in [*texts, *([] if cfg.negative is None else [cfg.negative])]:
        if not text.strip():
            raise UserError('a prompt is empty (""); say what the image shows')
    if not (Path(cfg.model) / "config.json").is_file():
        raise UserError(f"model={cfg.model} is no model folder; give one that a run made, such as outputs/NAME/model")
    if cfg.captioner is not None and not (Path(cfg.captioner) / "config.json").is_file():
        raise UserError(f"captioner={cfg.captioner} is no model folder; give one such as outputs/NAME/captioner")

    from tqdm import tqdm

    from clipgen.caption_pipeline import Captioner
    from clipgen.cli.machine import pick_device
    from clipgen.data.atomic import replacing
    from clipgen.picture import image_grid
    from clipgen.pipeline import ClipGen
    from clipgen.upscaler import Upscaler

    pipeline = ClipGen.from_pretrained(cfg.model, pick_device(cfg.device))
    if cfg.fidelity is not None and pipeline.kind == "clip" and not pipeline.transformer.told_level:
        raise UserError(
            f"fidelity={cfg.fidelity:g} has no effect on a model that is told no level (transformer.level_token=false, "
            "or a published one); leave it out"
        )
    captioner = None if cfg.captioner is None else Captioner.from_pretrained(cfg.captioner, pipeline.device)
    upscaler = Upscaler.from_pretrained(cfg.upscale, pipeline.device) if cfg.upscale else None
    sampling = {key: cfg[key] for key in GENERATION}
    negative = [] if cfg.negative is None else [cfg.negative]
    asked = [*texts, *negative, *(value for value, kind, _ in parts if kind == "text")]
    say_cut(pipeline, asked, pipeline.reader)
    if captioner is not None:
        say_cut(captioner, texts, "the captioner")
    each = min(cfg.n, cfg.candidates or cfg.n) if cfg.keep is None else cfg.keep
    made = (cfg.candidates or cfg.n) * max(len(texts), 1)
    began = time.perf_counter()
    with tqdm(total=made, desc="generating", unit="img") as bar:
        how = {"on_batch": bar.update, "negative": cfg.negative, **sampling}
        if cfg.mask:
            image = open_image(cfg.image, file)
            mask = open_image(cfg.mask, f"mask={cfg.mask}", "black")  # what is transparent is not painted
            images = pipeline.complete(image, mask, texts[0] if texts else None, each, cfg.seed, **how)
        elif cfg.image:
            images = pipeline.vary(open_image(cfg.image, file), each, cfg.seed, **how)
        elif parts:
            opened = [(open_image(value, file) if kind == "image" else value, weight) for value, kind, weight in parts]
            images = pipeline.mix(opened, each, cfg.seed, **how)
        elif cfg.candidates is not None:
            how["captioner"] = captioner
            images = pipeline.generate_best(texts, cfg.candidates, each, cfg.rerank or "clip", cfg.seed, **how)
        else:
            images = pipeline.generate(texts, each, cfg.seed, **how)
    seconds = time.perf_counter() - began
    labels = texts or [f"mix {Path(cfg.mix).name}" if cfg.mix else f"like {Path(cfg.image).name}"]
    scores = pipeline.scores(images, [text for text in texts for _ in range(each)]) if texts else [None] * each
    if upscaler:
        with tqdm(total=len(images), desc="enlarging", unit="img") as bar:
            images = upscaler.upscale(images, cfg.seed, bar.update)
    out = Path(cfg.out)
    used = pipeline.sampling | {key: value for key, value in sampling.items() if value is not None}
    if cfg.image and not texts and cfg.fidelity is None:
        used["fidelity"] = 1.0
    by = "the conditioning CLIP" if pipeline.kind == "clip" else "the CLIP beside the model"
    lines = []
    for i, (image, score) in enumerate(zip(images, scores, strict=True)):
        name = f"{i:05d}.png"
        with replacing(out / name) as path:
            image.save(path, format="PNG")
        line = {"file": name, "prompt": texts[i // each] if texts else None, "image": cfg.image, "mask": cfg.mask}
        line |= {"mix": parts or None, "negative": cfg.negative}
        line |= {"number": i % each, "seed": cfg.seed, "settings": used, "model": cfg.model, "clip_score": score}
        if cfg.candidates is not None:
            line |= {"candidates": cfg.candidates, "rerank": cfg.rerank or "clip", "captioner": cfg.captioner}
        if cfg.upscale:
            line |= {"upscale": cfg.upscale}
        lines.append(line | {"clip_score_by": by})
    earlier = _listed(out / "samples.jsonl")
    with replacing(out / "samples.jsonl") as path:
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    with replacing(out / "grid.png") as path:
        columns = min(each, 8)
        rows = -(-each // columns)
        headings = [label if row == 0 else "" for label in labels for row in range(rows)]
        image_grid(_filled(images, each, rows * columns), columns, headings).save(path, format="PNG")
    for name in earlier - {line["file"] for line in lines}:
        (out / name).unlink(missing_ok=True)  # of an earlier command, which drew more
    mean = f", mean CLIP score {sum(scores) / len(scores):.3f} ({by}'s own)" if texts else ""
    speed = f"{made / seconds:.1f} images/s"
    if not cfg.mask:  # where some tokens are given, not drawn
        speed += f", {made * pipeline.transformer.n_tokens / seconds:.0f} tokens/s"
    speed += ", CLIP and decoding included"
    print(f"sample: {len(images)} images in {out} ({speed}{mean}); look at {out}/grid.png")


def _listed(path: Path) -> set[str]:
    """The pictures that an earlier command wrote beside its list."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        names = {json.loads(line)["file"] for line in path.read_text(encoding="utf-8").splitlines()}
        return {name for name in names if re.fullmatch(r"\d{5}\.png", name)}
    return set()


def _filled(images: list, n: int, wide: int) -> list:
    """Each prompt's images padded with white to whole rows."""
    from PIL import Image

    white = Image.new("RGB", images[0].size, "white")
    return [
        image for start in range(0, len(images), n) for image in [*images[start : start + n], *[white] * (wide - n)]
    ]


def open_image(path: str, name: str, background: str = "white"):
    from PIL import Image, UnidentifiedImageError

    from data_prep.decode import SetAside, read

    try:
        return read(Path(path).read_bytes(), Image.MAX_IMAGE_PIXELS, background).image
    except (OSError, UnidentifiedImageError, SetAside) as problem:
        where = name if name.endswith(f"={path}") else f"{name}: {path}"
        raise UserError(f"{where} cannot be read as an image ({problem}); give another file") from problem
