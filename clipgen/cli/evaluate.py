"""`clipgen evaluate`: a generator on the demo world's prompts, or a tokenizer on held-out images."""

from pathlib import Path

from clipgen.check import PERCEPTUAL_FILES, check_world
from clipgen.cli.worlds import prompts_and_judge
from clipgen.config import GENERATION, EvaluateConfig
from clipgen.errors import UserError

SHOWN = 12  # prompts in the picture


def main(cfg: EvaluateConfig) -> float | None:
    if cfg.stage not in (None, "vqgan"):
        raise UserError(f"stage={cfg.stage} cannot be evaluated alone; take stage=vqgan, or model=FOLDER for all of it")
    if cfg.stage:
        if cfg.perceptual not in PERCEPTUAL_FILES:
            raise UserError(f"perceptual={cfg.perceptual} is unknown; take {' or '.join(PERCEPTUAL_FILES)}")
        from clipgen.cli.evaluate_tokenizer import evaluate_tokenizer

        return evaluate_tokenizer(cfg)
    check_world(cfg.world)
    if cfg.world is None and cfg.shards is None and cfg.prompts is None:
        raise UserError(
            "give world=shapes, world=two or prompts=FILE to judge the generator, or shards=FOLDER to evaluate its "
            "tokenizer"
        )
    if cfg.prompts and not cfg.clip.model:
        raise UserError("prompts=FILE needs clip.model=NAME, the CLIP that scores; take one that did not condition")
    from clipgen.cli.machine import pick_device
    from clipgen.data.atomic import write_json
    from clipgen.data.transforms import sides
    from clipgen.evaluation.fidelity import reconstruction
    from clipgen.pipeline import ClipGen

    pipeline = ClipGen.from_pretrained(cfg.model, pick_device(cfg.device))
    metrics = {}
    sampling = {key: cfg[key] for key in GENERATION}
    height, width = sides(pipeline.vqgan.image_size)
    if cfg.world and height != width:
        raise UserError(
            f"world={cfg.world} is judged on squares, but {cfg.model} makes pictures of {height}×{width}; give "
            "shards=FOLDER to evaluate its tokenizer instead"
        )
    if cfg.world:
        prompts, judge = prompts_and_judge(cfg.world)
        sets = {"test": prompts.test_prompts, "development": prompts.development_prompts}
        if cfg.split not in sets:
            raise UserError(f"split={cfg.split} is unknown; take {' or '.join(sets)}")
        metrics |= judge.judge_generator(pipeline, sets[cfg.split](), cfg.n, cfg.seed, **sampling).metrics
        metrics |= judge.yardsticks(pipeline, cfg.n)
    if cfg.shards:
        from clipgen.cli.evaluate_tokenizer import held_out

        metrics |= reconstruction(pipeline.vqgan, held_out(cfg, cfg.shards, pipeline.vqgan).val_dataloader())
    if cfg.prompts:
        metrics |= by_clip(cfg, pipeline, sampling)
    for name, value in metrics.items():
        print(f"{name:<28}{value:.4f}")
    if cfg.out:
        write_json(Path(cfg.out), metrics)
    return metrics.get("judge.all", metrics.get("clip.score", metrics.get("vqgan.psnr")))


def by_clip(cfg: EvaluateConfig, pipeline, sampling: dict) -> dict[str, float]:
    """Scores of samples of the prompts in a file by the CLIP of `clip.model`; beside `out` a picture of some."""
    import numpy as np
    from tqdm import tqdm

    from clipgen.cli.build import load_clip_once
    from clipgen.cli.say import say_cut
    from clipgen.clip.texts import read_texts
    from clipgen.data.atomic import replacing
    from clipgen.evaluation.prompts import clip_figures
    from clipgen.picture import image_grid

    texts = read_texts(cfg.prompts, f"prompts={cfg.prompts}", "prompt")
    clip = load_clip_once(cfg.clip.model, cfg.clip.pretrained, pipeline.device)
    say_cut(pipeline.clip, texts)
    say_cut(clip, texts, f"clip.model={cfg.clip.model}")
    with tqdm(total=cfg.n * len(texts), desc="generating from text", unit="img") as bar:
        images = pipeline.generate(texts, cfg.n, cfg.seed, bar.update, **sampling)
    figures = clip_figures(images, texts, clip)
    if clip.identity.fingerprint() == pipeline.clip.identity.fingerprint():
        print(f"clip.model={cfg.clip.model} is what conditioned the samples: its figures are circular")
        figures = {name.replace("clip.", "clip.circular.", 1): value for name, value in figures.items()}
    if cfg.out:
        picks = range(0, len(texts), max(1, len(texts) // SHOWN))[:SHOWN]
        shown = [np.asarray(image) for i in picks for image in images[i * cfg.n : (i + 1) * cfg.n]]
        with replacing(Path(cfg.out).with_suffix(".png")) as path:
            image_grid(shown, cfg.n, [texts[i] for i in picks]).save(path, format="PNG")
    return figures
