"""The figures of metrics.json in plain words: tiles for the first look, then tables by group."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from clipgen.page import table, tile

ATTRIBUTES = {"foreground": "Colour of the object", "background": "Background", "shape": "Shape", "size": "Size"}
HEADLINE = {  # the first three that there are
    "binding": "Each colour is on its shape",
    "count": "Number of objects is right",
    **{name: f"{text} is right" for name, text in ATTRIBUTES.items()},
}
MATRICES = {  # groups shown as a matrix: heading of the rows, then columns; judge.chance.shape stands in column chance
    "judge": {
        "": "All prompts",
        "chance": "Chance",
        "ceiling": "Ceiling",
        "plain": "Captions’ wording",
        "reworded": "Reworded",
        "held_out": "Held-out combinations",
    },
    "spread": {"": "Samples of one prompt", "training": "Training pictures"},
}
GROUPS = {  # heading and what it means
    "judge": (
        "Does the picture show what the prompt asks for?",
        "Share of the pictures in which the judge sees it; the judge reads pixels and uses no CLIP. Chance: a "
        "generator that does not know the prompt. Ceiling: the judge on the VQGAN’s reconstructions of drawn pictures. "
        "Held-out combinations occur in no training picture.",
    ),
    "spread": ("Do the pictures of one prompt differ?", "Spread of place and size, in fractions of the side."),
    "clip": ("The CLIP that conditions the generator", "Its zero-shot accuracy bounds what a prompt can ask for."),
    "vqgan": ("The VQGAN", "How well pictures survive the way into tokens and back, on the validation split."),
    "transformer": ("The Transformer", ""),
    "images": ("Images", ""),
    "seconds": ("Time", "Everything after the install."),
}
NAMES = {
    "clip.zero_shot.shape": "Zero-shot accuracy, shape",
    "clip.zero_shot.foreground": "Zero-shot accuracy, colour",
    "clip.zero_shot.background": "Zero-shot accuracy, background",
    "clip.zero_shot.size": "Zero-shot accuracy, size",
    "clip.captions_seen": "Captions it was trained on",
    "clip.score.conditioning": "CLIP score, by the CLIP that conditioned",
    "vqgan.psnr": "PSNR of the reconstructions",
    "vqgan.ssim": "SSIM of the reconstructions",
    "vqgan.usage": "Codes in use",
    "vqgan.perplexity": "Codebook perplexity, in codes",
    "vqgan.gan_share": "Batches with the GAN on",
    "transformer.val_loss": "Validation loss, nats a token",
    "paired.val_loss": "Validation loss, text and image",
    "images.train": "Training images",
    "images.val": "Validation images",
    "seconds.prep": "Folder → shards",
    "seconds.vqgan": "Training the VQGAN",
    "seconds.encode": "Shards → latents",
    "seconds.transformer": "Training the Transformer",
    "seconds.evaluate": "Evaluation",
    "seconds.total": "Total time",
    "spread.x": "Place, across",
    "spread.y": "Place, down",
    "spread.radius": "Size (radius)",
    **{f"judge.{name}": text for name, text in ATTRIBUTES.items()},
    "judge.binding": "Pairs, each colour on its shape",
    "judge.swapped": "Pairs, colours swapped",
    "judge.colour": "Pairs, both colours",
    "judge.count": "Number of alike objects",
    **{f"judge.count_of_{n}": f"Number, of {word}" for n, word in enumerate(("one", "two", "three"), start=1)},
}
SHARE_WORDS = (
    "judge", "zero_shot", "accuracy", "retrieval", "recall", "precision", "coverage", "chance", "usage", "gan_share",
)  # fmt: skip


def headline(metrics: Mapping[str, Any]) -> str:
    judged = [name for name in HEADLINE if is_number(metrics.get(f"judge.{name}"))][:3]
    tiles = [_judge_tile(metrics, name) for name in judged]
    plain = ["seconds.total"]
    if not judged:
        score = [name for name in metrics if name.startswith(("clip.score", "clip.zero_shot"))][:1]
        plain = ["vqgan.psnr", "transformer.val_loss", *score, *plain]
    tiles += [tile(title(name), show(name, metrics[name])) for name in plain if is_number(metrics.get(name))]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _judge_tile(metrics: Mapping[str, Any], attribute: str) -> str:
    value, bounds, marks = metrics[f"judge.{attribute}"], [], ""
    for bound in ("chance", "ceiling"):
        if is_number(at := metrics.get(f"judge.{bound}.{attribute}")):
            bounds.append(f"{bound} {show('judge', at)}")
            marks += f'<b style="left:{_percent(at)}%"></b>'
    bar = f'<div class="bar"><i style="width:{_percent(value)}%"></i>{marks}</div><small>{" · ".join(bounds)}</small>'
    return tile(HEADLINE[attribute], show("judge", value), bar)


def _percent(share: float) -> float:
    return round(100 * min(max(share, 0.0), 1.0), 2)


def figures(metrics: Mapping[str, Any]) -> str:
    groups: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        groups.setdefault(name.partition(".")[0], {})[name] = value
    order = [*(name for name in GROUPS if name in groups), *sorted(set(groups) - set(GROUPS))]
    html = "".join(_group(name, groups[name]) for name in order)
    return f'<div class="figures">{html}</div>' if html else ""


def _group(group: str, metrics: dict[str, Any]) -> str:
    heading, meaning = GROUPS.get(group, (group, ""))
    rows: dict[str, dict[str, Any]] = {}  # of the matrix: what → column → value
    if group in MATRICES:
        split = {name: name.split(".") for name in metrics}
        deep = {parts[-1] for parts in split.values() if len(parts) == 3} | set(ATTRIBUTES)
        for name, parts in split.items():
            if len(parts) in (2, 3) and parts[-1] in deep:
                rows.setdefault(parts[-1], {})["" if len(parts) == 2 else parts[1]] = metrics[name]
    columns = {column for cells in rows.values() for column in cells}
    known = [column for column in MATRICES.get(group, {}) if column in columns]
    shown = [*known, *sorted(columns - set(known))]
    html = ""
    if rows:
        head = ["", *(MATRICES[group].get(column, column) for column in shown)]
        body = [
            [title(f"{group}.{what}"), *(show(f"{group}.{what}", cells[c]) if c in cells else "–" for c in shown)]
            for what, cells in rows.items()
        ]
        html += table(body, head)
    rest = [name for name in metrics if name.split(".")[-1] not in rows]
    html += table([[title(name), show(name, metrics[name])] for name in rest]) if rest else ""
    kind = "group whole" if group == "judge" else "group"
    return f'<div class="{kind}"><h3>{escape(heading)}</h3><p>{escape(meaning)}</p>{html}</div>'


def is_number(value: Any) -> bool:
    """Whether it is a finite number; a metric may be null or NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def title(name: str) -> str:
    """Plain words for the dotted name of a figure, or the name."""
    return NAMES.get(name, name)


def show(name: str, value: Any) -> str:
    """The value of a figure, with the unit that its name implies."""
    if not is_number(value):
        return "–" if value is None else str(value)
    if name.startswith("seconds."):
        return duration(value)
    if any(word in name for word in SHARE_WORDS) and 0 <= value <= 1:
        return f"{100 * value:.1f} %".replace(".0 %", " %")
    if name.endswith("psnr"):
        return f"{value:.2f} dB"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8.5 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
