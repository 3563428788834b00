"""`clipgen evaluate`: a generator on the demo world's prompts, or a tokenizer on held-out images."""

from pathlib import Path

from clipgen.check import PERCEPTUAL_FILES
from clipgen.config import GENERATION, EvaluateConfig
from clipgen.errors import UserError


def main(cfg: EvaluateConfig) -> float | None:
    if cfg.stage not in (None, "vqgan"):
        raise UserError(f"stage={cfg.stage} cannot be evaluated alone; take stage=vqgan, or model=FOLDER for all of it")
    if cfg.stage:
        if cfg.perceptual not in PERCEPTUAL_FILES:
            raise UserError(f"perceptual={cfg.perceptual} is unknown; take {' or '.join(PERCEPTUAL_FILES)}")
        from clipgen.cli.evaluate_tokenizer import evaluate_tokenizer

        return evaluate_tokenizer(cfg)
    if cfg.world not in (None, "shapes"):
        raise UserError(f"world={cfg.world} is unknown; the demo world is called shapes")
    if cfg.world is None and cfg.shards is None:
        raise UserError("give world=shapes to judge the generator, or shards=FOLDER to evaluate its tokenizer")
    from clipgen.cli.machine import pick_device
    from clipgen.data.atomic import write_json
    from clipgen.data.transforms import sides
    from clipgen.evaluation.fidelity import reconstruction
    from clipgen.evaluation.world import judge_generator, yardsticks
    from clipgen.pipeline import ClipGen
    from clipgen.shapes import prompts

    pipeline = ClipGen.from_pretrained(cfg.model, pick_device(cfg.device))
    metrics = {}
    height, width = sides(pipeline.vqgan.image_size)
    if cfg.world and height != width:
        raise UserError(
            f"world={cfg.world} is judged on squares, but {cfg.model} makes pictures of {height}×{width}; give "
            "shards=FOLDER to evaluate its tokenizer instead"
        )
    if cfg.world:
        sets = {"test": prompts.test_prompts, "development": prompts.development_prompts}
        if cfg.split not in sets:
            raise UserError(f"split={cfg.split} is unknown; take {' or '.join(sets)}")
        sampling = {key: cfg[key] for key in GENERATION}
        metrics |= judge_generator(pipeline, sets[cfg.split](), cfg.n, cfg.seed, **sampling).metrics
        metrics |= yardsticks(pipeline, cfg.n)
    if cfg.shards:
        from clipgen.cli.evaluate_tokenizer import held_out

        metrics |= reconstruction(pipeline.vqgan, held_out(cfg, cfg.shards, pipeline.vqgan).val_dataloader())
    for name, value in metrics.items():
        print(f"{name:<28}{value:.4f}")
    if cfg.out:
        write_json(Path(cfg.out), metrics)
    return metrics.get("judge.all", metrics.get("vqgan.psnr"))
