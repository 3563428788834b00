"""What a run ends with: figures, pictures, and a few lines that say what was made and what to type next."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from clipgen.cli.build import gan_start, tokenizer_path
from clipgen.cli.worlds import prompts_and_judge
from clipgen.config import Config, asdict_of
from clipgen.data.atomic import replacing, write_json
from clipgen.data.manifest import Manifest
from clipgen.data.module import ImageData
from clipgen.evaluation.fidelity import reconstruction
from clipgen.evaluation.nearest import nearest
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.picture import beside, image_grid
from clipgen.pipeline import ClipGen

EACH = 4  # images of a prompt
SHOWN = 12  # prompts in samples.png
EXAMPLES = {
    "shapes": "a red circle on a blue background", "two": "a red circle and a white ring on a blue background"
}  # fmt: skip
LOOKED_UP = 16  # samples whose nearest training picture is shown


def evaluate_run(cfg: Config, pipeline: ClipGen, stage: Path) -> dict[str, float]:
    """Metrics of tokenizer, CLIP and generator, whose weights are in `stage`.

    Writes samples.png, nearest.png and reconstructions.png beside that folder.
    """
    out = stage.parent
    size = pipeline.vqgan.image_size
    data = ImageData(cfg.shards, size, 256, 1, cfg.seed, val_samples=1000)
    data.setup("validate")
    metrics: dict[str, float] = {"images.train": data.n_train, "images.val": data.n_val}
    batches = [data.val_batches.plain(range(i, min(i + 100, data.n_val))) for i in range(0, data.n_val, 100)]
    if batches:
        metrics |= reconstruction(pipeline.vqgan, batches)
        first = batches[0]["image"][:12]
        made = reconstruct(pipeline.vqgan, first)[1]
        save(
            image_grid([*first.numpy(), *made.numpy()], len(first), ["images", "reconstructions"]),
            out,
            "reconstructions",
        )
    t = cfg.tokenizer.train
    if not cfg.tokenizer.ckpt:
        metrics["vqgan.gan_share"] = round(max(0.0, 1 - gan_start(t) / t.steps), 4) if t.gan_weight > 0 else 0.0
    metrics |= _transformer_loss(stage)
    if cfg.world:
        questions, judge = prompts_and_judge(cfg.world)
        metrics |= judge.zero_shot(pipeline.clip, size)
        metrics |= _captions_seen(pipeline)
        prompts = questions.test_prompts()
        judged = judge.judge_generator(pipeline, prompts, EACH, cfg.seed)
        metrics |= judged.metrics | judge.yardsticks(pipeline, EACH)
        picks = range(0, len(prompts), len(prompts) // SHOWN)
        texts, images = [prompts[i].text for i in picks][:SHOWN], judged.images
        shown = [image for i in list(picks)[:SHOWN] for image in images[i * EACH : (i + 1) * EACH]]
        scores = pipeline.scores(images, [p.text for p in prompts for _ in range(EACH)])
        metrics["clip.score.conditioning"] = float(np.mean(scores))
    elif cfg.prompts:
        texts = list(cfg.prompts)[:SHOWN]
        shown = pipeline.generate(texts, EACH, cfg.seed)
        scores = pipeline.scores(shown, [text for text in texts for _ in range(EACH)])
        metrics["clip.score.conditioning"] = float(np.mean(scores))
    else:
        texts, shown = _variations(cfg, pipeline, data)
    save(prompt_sheet(shown, texts), out, "samples")
    each = len(shown) // max(1, len(texts))
    made = [image for i, image in enumerate(shown) if i % each >= each - EACH]  # without a held-out one before them
    metrics |= _nearest(data, made, out)
    return metrics


def evaluate_once(cfg: Config, make: Callable[[], ClipGen], stage: Path) -> dict[str, float]:
    """`evaluate_run` of `make()`, not done again where the models and how they are asked are the same."""
    kept, figures = stage.with_name("evaluated.json"), stage.with_name("metrics.json")
    models = [tokenizer_path(cfg), *sorted(stage.glob("*.ckpt"))]
    how = {
        "stage": stage.name,
        "sampling": asdict_of(cfg.sampling), "prompts": list(cfg.prompts), "world": cfg.world, "seed": cfg.seed,
        "bank": cfg.bank, "latents": Manifest.load(cfg.latents, "latents").content,
        "models": [[path.stat().st_size, path.stat().st_mtime_ns] for path in models],
    }  # fmt: skip
    if kept.is_file() and figures.is_file() and json.loads(kept.read_text("utf-8")) == how:
        return json.loads(figures.read_text("utf-8"))
    metrics = evaluate_run(cfg, make(), stage)
    write_json(figures, metrics)
    write_json(kept, how)
    return metrics


def prompt_sheet(images: list[Image.Image], texts: list[str]) -> Image.Image:
    """The images of each text in a row under it, the rows in up to three columns."""
    if not texts:
        return image_grid(images, EACH)
    each = len(images) // len(texts)
    rows = -(-len(texts) // 3)
    starts = range(0, len(texts), rows)
    return beside([image_grid(images[i * each : (i + rows) * each], each, texts[i : i + rows]) for i in starts])


def _variations(cfg: Config, pipeline: ClipGen, data: ImageData) -> tuple[list[str], list[Image.Image]]:
    """Held-out pictures and, beside each, images asked for with its own embedding."""
    rows = range(min(SHOWN, data.n_val)) if data.n_val else range(0)
    labels, shown = [], []
    for i in rows:
        picture = Image.fromarray(data.val_batches.plain([i])["image"][0].numpy())
        shown += [picture, *pipeline.vary(picture, EACH, cfg.seed)]
        labels.append("held-out picture, then images like it")
    return labels, shown


def _nearest(data: ImageData, shown: list[Image.Image], out: Path) -> dict[str, float]:
    if not shown:
        return {}
    picks = shown[:: max(1, len(shown) // LOOKED_UP)][:LOOKED_UP]
    samples = np.stack([np.asarray(image) for image in picks])
    data.setup("fit")
    training = (data.train_batches.plain(range(i, min(i + 1000, data.n_train))) for i in range(0, data.n_train, 1000))
    found, distance = nearest(samples, training)
    labels = ["samples", "the training picture nearest to each, by pixels"]
    save(image_grid([*samples, *found], len(samples), labels, cell=64), out, "nearest")
    return {"nearest.rms": float(distance.mean()), "nearest.rms_least": float(distance.min())}


def save(picture: Image.Image, out: Path, name: str) -> None:
    with replacing(out / f"{name}.png") as path:
        picture.save(path, format="PNG")


def _transformer_loss(stage: Path) -> dict[str, float]:
    from clipgen.cli.train import best_score

    loss = best_score(stage)
    return {} if loss is None else {f"{stage.name}.val_loss": loss}


def _captions_seen(pipeline: ClipGen) -> dict[str, float]:
    """Of a CLIP that clipgen trained: batches times batch size."""
    folder = Path(pipeline.clip.identity.model.partition(":")[2])
    try:
        training = json.loads((folder / "training.json").read_text(encoding="utf-8"))["clip.train"]
    except (OSError, ValueError, KeyError):
        return {}
    return {"clip.captions_seen": training["steps"] * training["batch_size"]}


def tell(cfg: Config, metrics: dict[str, float], out: Path, seconds: float) -> None:
    """The last lines of a run."""
    lines = [
        "",
        f"Made: a text-to-image generator in {out}/model, from {metrics['images.train']:,} images and no captions.",
    ]
    if "vqgan.psnr" in metrics:
        trained = "vqgan.gan_share" in metrics
        made = f"GAN on in {metrics['vqgan.gan_share']:.0%} of the steps" if trained else "by the tokenizer given"
        lines.append(
            f"  images → tokens → images: PSNR {metrics['vqgan.psnr']:.1f} dB, {metrics['vqgan.usage']:.0%} of the "
            f"codes in use, {made}"
        )
    if "judge.binding" in metrics:
        lines += _told_of_two(metrics)
    elif "judge.shape" in metrics:
        lines.append("  200 prompts, 4 images each, judged by their pixels (chance; ceiling: reconstructions):")
        for name in ("foreground", "background", "shape", "size"):
            held_out = metrics.get(f"judge.held_out.{name}")
            lines.append(
                f"    {name:<11}{metrics[f'judge.{name}']:7.1%}   ({metrics[f'judge.chance.{name}']:.0%}; "
                f"{metrics[f'judge.ceiling.{name}']:.1%})   never-shown combinations {held_out:.1%}"
            )
        lines.append(
            f"  its CLIP saw {metrics.get('clip.captions_seen', 0):,} captions, of other pictures; zero-shot: shape "
            f"{metrics['clip.zero_shot.shape']:.1%}, colours {metrics['clip.zero_shot.foreground']:.1%} and "
            f"{metrics['clip.zero_shot.background']:.1%}, size {metrics['clip.zero_shot.size']:.1%}"
        )
        lines.append(
            f"  spread of place over a prompt's images {metrics['spread.x']:.3f} (as drawn: "
            f"{metrics['spread.training.x']:.3f} of the side)"
        )
    elif "clip.score.conditioning" in metrics:
        lines.append(f"  CLIP score {metrics['clip.score.conditioning']:.3f}, by the CLIP that conditioned it")
    lines.append(f"  {metrics['seconds.total']:.0f} s in all ({seconds:.0f} s this time)")
    prompt = EXAMPLES.get(cfg.world, "what you would like to see")
    lines += [
        "Look at:",
        f"  {out}/samples.png  {out}/report.html",
        "Type next:",
        f'  clipgen sample model={out}/model "{prompt}" n=8 seed=0',
        "  clipgen run images=YOUR_FOLDER name=YOURS",
    ]
    print("\n".join(lines), flush=True)


def _told_of_two(metrics: dict[str, float]) -> list[str]:
    """What the judge saw in the two-object world; of a pair drawn right but for its colours' places `swapped` tells."""
    lines = ["  180 prompts, 4 images each, judged by their pixels (chance; ceiling: reconstructions):"]
    for name, words in (
        ("binding", "pairs, each colour on its shape"),
        ("shape", "pairs, both shapes"),
        ("colour", "pairs, both colours"),
        ("count", "how many"),
        ("background", "background"),
    ):
        chance, ceiling = metrics[f"judge.chance.{name}"], metrics[f"judge.ceiling.{name}"]
        lines.append(
            f"    {words:<32}{metrics[f'judge.{name}']:7.1%}   ({chance:.1%}; {ceiling:.1%})   never-shown objects "
            f"{metrics[f'judge.held_out.{name}']:.1%}"
        )
    lines.append(
        f"  pairs with their colours swapped {metrics['judge.swapped']:.1%}; its CLIP saw "
        f"{metrics.get('clip.captions_seen', 0):,} captions, of other pictures; zero-shot: binding "
        f"{metrics['clip.zero_shot.binding']:.1%} (chance 50%), count {metrics['clip.zero_shot.count']:.1%} (33%)"
    )
    return lines
