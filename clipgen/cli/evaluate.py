"""`clipgen evaluate`: a generator on prompts, against pictures, in the demo world; or a tokenizer on held-out ones."""

from pathlib import Path

from clipgen.check import check_world
from clipgen.check.tokenizer import PERCEPTUAL_FILES
from clipgen.cli.worlds import prompts_and_judge
from clipgen.errors import UserError
from clipgen.tools import GENERATION, EvaluateConfig


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
            "give world=shapes, world=two or prompts=FILE to judge the generator, or shards=FOLDER to compare it with "
            "pictures"
        )
    if cfg.n < 1 or cfg.nearest < 0:
        raise UserError(f"n={cfg.n} nearest={cfg.nearest}; take 1 sample of a prompt or more, and 0 or more to look up")
    if cfg.prompts and not cfg.shards and not cfg.clip.model:
        raise UserError(
            "prompts=FILE needs clip.model=NAME, the CLIP that scores (take one that did not condition), or "
            "shards=FOLDER, pictures to compare with"
        )
    from clipgen.cli.evaluate_generator import captions, compared, held_out, pictures_of, scored, show
    from clipgen.cli.extractors import captioner_of, extractors
    from clipgen.cli.machine import pick_device
    from clipgen.cli.say import say_cut
    from clipgen.clip.texts import read_texts
    from clipgen.data.atomic import write_json
    from clipgen.data.size import sides
    from clipgen.evaluation.fidelity import reconstruction
    from clipgen.evaluation.metrics import Pictures, caption_loss
    from clipgen.pipeline import ClipGen

    pipeline = ClipGen.from_pretrained(cfg.model, pick_device(cfg.device))
    metrics, told, left_out = {}, {}, {}
    sampling = {key: cfg[key] for key in GENERATION}
    height, width = sides(pipeline.vqgan.image_size)
    if cfg.world and height != width:
        raise UserError(
            f"world={cfg.world} is judged on squares, but {cfg.model} makes pictures of {height}×{width}; give "
            "shards=FOLDER to compare it with pictures instead"
        )
    texts, images = [], []
    at_hand, missing = extractors(cfg, pipeline.device)
    captioner = captioner_of(cfg.captioner, pipeline.device)
    data = held_out(cfg, cfg.shards, pipeline.vqgan.image_size) if cfg.shards else None
    if cfg.prompts:
        texts = read_texts(cfg.prompts, f"prompts={cfg.prompts}", "prompt")
    if cfg.world:
        prompts, judge = prompts_and_judge(cfg.world)
        sets = {"test": prompts.test_prompts, "development": prompts.development_prompts}
        if cfg.split not in sets:
            raise UserError(f"split={cfg.split} is unknown; take {' or '.join(sets)}")
        asked = sets[cfg.split]()
        judged = judge.judge_generator(pipeline, asked, cfg.n, cfg.seed, **sampling)
        metrics |= judged.metrics | judge.yardsticks(pipeline, cfg.n)
        if not texts:
            texts, images = [prompt.text for prompt in asked], judged.images
    if data:
        metrics |= reconstruction(pipeline.vqgan, data.val_dataloader())
        texts = texts or captions(data)
    if not texts:
        left_out["samples"] = f"{cfg.shards} has no captions to sample from; give prompts=FILE, or captions to prep"
    if texts and not images:
        from tqdm import tqdm

        say_cut(pipeline, texts, pipeline.reader)
        with tqdm(total=cfg.n * len(texts), desc="generating from text", unit="img") as bar:
            images = pipeline.generate(texts, cfg.n, cfg.seed, bar.update, **sampling)
    if images:
        by_clip = {pipeline.clip.identity.fingerprint()} if pipeline.kind == "clip" else set()
        samples = Pictures.of(images, f"samples of {len(texts):,} prompts", by_clip)
        if cfg.clip.model:
            metrics |= scored(cfg, samples, texts, at_hand["clip"])
        if data:
            found, without = compared(cfg, samples, pictures_of(data), len(texts), data, at_hand)
            told |= found
            left_out |= missing | without
        if captioner is not None:
            told["caploss"] = caption_loss(samples, texts, captioner)[0]
        elif data:
            left_out["caploss"] = "needs captioner=FOLDER, a captioner"
        if cfg.out:
            show(cfg, images, texts)
    metrics |= {name: figure.value for name, figure in told.items()}
    for name, value in metrics.items():
        print(f"{name:<30}{value:<12.4f}{told[name].how if name in told else ''}".rstrip())
    for name, why in left_out.items():
        print(f"{name:<30}{'left out':<12}{why}")
    if cfg.out:
        about = {"how": {name: figure._asdict() for name, figure in told.items()}, "left_out": left_out}
        write_json(Path(cfg.out), metrics | (about if data or told else {}))
    return metrics.get("judge.all", metrics.get("clip.score", metrics.get("vqgan.psnr")))
