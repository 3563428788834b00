"""report.html: what a run folder holds, on one page of one file that needs nothing else and no network.

Every part may be absent; the page then says which. `curves.py` draws the curves.
"""

import base64
import io
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from clipgen.data.atomic import replacing
from clipgen.errors import UserError
from clipgen.evaluation.curves import Curve, charts, read_curves

STAGES = {
    "clip": "CLIP: text and image → one embedding",
    "vqgan": "Stage 1, the VQGAN: image ⇄ tokens",
    "transformer": "Stage 2, the Transformer: embedding → tokens",
    "paired": "The paired Transformer: text → tokens",
}
EXPECTED = ("vqgan", "transformer")  # stages without which a run is not finished
DONE = ("done", "complete", "completed", "finished")
FILES = {
    "config.yaml": "settings",
    "run.json": "command and versions",
    "metrics.json": "figures",
    "samples.png": "samples",
}
WIDEST, WIDEST_SMALL = 2000, 480  # pixels; wider pictures are made smaller
NARROW = 640  # pixels; a picture that fits into it more than once is shown larger, in whole multiples
LEGIBLE = 640  # pixels; on a narrower screen the samples, with their labels, are moved sideways instead of shrunk
THUMBNAILS = 6  # of the grids that a stage saved on its way

ATTRIBUTES = {"foreground": "Colour of the object", "background": "Background", "shape": "Shape", "size": "Size"}
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
        "Held-out combinations of shape, colour and background occur in no training picture.",
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
    "clip.zero_shot.colour": "Zero-shot accuracy, colour",
    "clip.zero_shot.background": "Zero-shot accuracy, background",
    "clip.zero_shot.size": "Zero-shot accuracy, size",
    "clip.zero_shot": "Zero-shot accuracy",
    "clip.captions": "Captions it was trained on",
    "vqgan.psnr": "PSNR of the reconstructions",
    "vqgan.usage": "Codes in use",
    "vqgan.perplexity": "Codebook perplexity, in codes",
    "vqgan.gan_share": "Batches with the GAN on",
    "transformer.val_loss": "Validation loss, nats a token",
    "images.train": "Training images",
    "images.val": "Validation images",
    "seconds.prep": "Folder → shards",
    "seconds.draw": "Drawing the demo’s pictures",
    "seconds.clip": "Training the CLIP",
    "seconds.vqgan": "Training the VQGAN",
    "seconds.encode": "Shards → latents",
    "seconds.transformer": "Training the Transformer",
    "seconds.sample": "Sampling",
    "seconds.evaluate": "Evaluation",
    "seconds.total": "Total time",
    "spread.x": "Place, across",
    "spread.y": "Place, down",
    "spread.radius": "Size (radius)",
    **{f"judge.{name}": text for name, text in ATTRIBUTES.items()},
}
SHARE_WORDS = ("judge", "zero_shot", "accuracy", "retrieval", "recall", "chance", "usage", "gan_share")


@dataclass
class Stage:
    """One stage folder: its stage.json, its curves, its grids in order, the latest last."""

    name: str
    about: dict[str, Any]
    curves: list[Curve]
    grids: list[Path]


@dataclass
class Run:
    """What was found in a run folder; `notes` say what was not, or could not be read."""

    folder: Path
    config: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_report(run: Path) -> Path:
    """Make `RUN/report.html` from what lies in the run folder, and return its path.

    Raises UserError where `run` is no folder or holds nothing of a run.
    """
    found = read_run(Path(run))
    path = found.folder / "report.html"
    html = page(found)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def read_run(folder: Path) -> Run:
    """Everything of a run folder but the pictures; UserError where it is no run folder."""
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}: give the folder of a run, such as outputs/demo")
    run = Run(folder)
    for name in sorted(path.name for path in folder.iterdir() if _is_stage(path)):
        run.stages.append(_read_stage(folder / name, run.notes))
    run.stages.sort(key=lambda stage: list(STAGES).index(stage.name) if stage.name in STAGES else len(STAGES))
    absent = [name for name in FILES if not (folder / name).is_file()]
    if not run.stages and len(absent) == len(FILES):
        raise UserError(
            f"{folder} is no run folder: it has none of {', '.join(FILES)} and no stage; "
            "give one that `clipgen run` or `clipgen train` made, such as outputs/demo"
        )
    run.notes += [f"{FILES[name]} ({name}): not there yet" for name in absent]
    run.notes += [f"stage {name}: not begun" for name in EXPECTED if name not in [stage.name for stage in run.stages]]
    for stage in run.stages:
        if (status := str(stage.about.get("status", "not finished"))) not in DONE:
            run.notes.append(f"stage {stage.name}: {status}")
    if "config.yaml" not in absent:
        run.config = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    run.about = _read_json(folder / "run.json", run.notes)
    run.metrics = flat(_read_json(folder / "metrics.json", run.notes))
    return run


def _is_stage(path: Path) -> bool:
    return any((path / name).exists() for name in ("stage.json", "metrics.csv", "grids"))


def _read_stage(folder: Path, notes: list[str]) -> Stage:
    table = folder / "metrics.csv"
    grids = sorted(path for path in folder.glob("grids/*.png") if path.name != "latest.png")
    if (latest := folder / "grids" / "latest.png").is_file():
        grids.append(latest)
    about = _read_json(folder / "stage.json", notes)
    return Stage(folder.name, about, read_curves(table) if table.is_file() else [], grids)


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        notes.append(f"{path.name} in {path.parent.name} is not readable: {error}")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} in {path.parent.name} is not readable: no JSON object")
        return {}
    return content


def page(run: Run) -> str:
    """The whole page as HTML."""
    name = run.folder.resolve().name
    pictures = [
        _picture(run, "nearest.png", "Samples beside the training picture that is nearest to each: copies would show."),
        _picture(run, "reconstructions.png", "Pictures beside what the VQGAN makes of their tokens."),
    ]
    samples = _picture(run, "samples.png", "Pictures that the generator made, with the prompt of each.", LEGIBLE)
    stages = [_stage(run, stage) for stage in run.stages]
    parts = [
        _headline(run.metrics),
        _section("Samples", samples + _prompts(run)),
        _section("A closer look", f'<div class="pair">{"".join(pictures)}</div>' if any(pictures) else ""),
        _section("Figures", _figures(run.metrics)),
        *stages,
        _section("How it was made", _origin(run)),
    ]
    items = "".join(f"<li>{escape(note)}</li>" for note in run.notes)  # after the parts, which may add to them
    notes = f"<aside><b>Not complete</b><ul>{items}</ul></aside>" if items else ""
    images = run.metrics.get("images.train")
    size = f"{images:,.0f} images" if is_number(images) else "a folder of images"
    captions = "with" if any(stage.name == "paired" for stage in run.stages) else "without"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(name)} · clipgen</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(name)}</h1>
<p>A text-to-image generator that clipgen trained on {size} {captions} captions, in two stages.</p></header>
<main>
{notes}
{"".join(parts)}
</main>
</body>
</html>
"""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


def _headline(metrics: Mapping[str, Any]) -> str:
    judged = [name for name in ("foreground", "background", "shape") if is_number(metrics.get(f"judge.{name}"))]
    tiles = [_judge_tile(metrics, name) for name in judged]
    plain = ["seconds.total"]
    if not judged:
        score = [name for name in metrics if name.startswith(("clip.score", "clip.zero_shot"))][:1]
        plain = ["vqgan.psnr", "transformer.val_loss", *score, *plain]
    tiles += [_tile(title(name), show(name, metrics[name])) for name in plain if is_number(metrics.get(name))]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _judge_tile(metrics: Mapping[str, Any], attribute: str) -> str:
    value, bounds, marks = metrics[f"judge.{attribute}"], [], ""
    for bound in ("chance", "ceiling"):
        if is_number(at := metrics.get(f"judge.{bound}.{attribute}")):
            bounds.append(f"{bound} {show('judge', at)}")
            marks += f'<b style="left:{_percent(at)}%"></b>'
    bar = f'<div class="bar"><i style="width:{_percent(value)}%"></i>{marks}</div><small>{" · ".join(bounds)}</small>'
    return _tile(f"{ATTRIBUTES[attribute]} is right", show("judge", value), bar)


def _percent(share: float) -> float:
    return round(100 * min(max(share, 0.0), 1.0), 2)


def _tile(name: str, value: str, more: str = "") -> str:
    return f'<div class="tile"><span>{escape(name)}</span><strong>{escape(value)}</strong>{more}</div>'


def _figures(metrics: Mapping[str, Any]) -> str:
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


def _stage(run: Run, stage: Stage) -> str:
    facts = [str(stage.about["status"])] if "status" in stage.about else []
    if is_number(seconds := stage.about.get("seconds")):
        facts.append(duration(seconds))
    if stage.curves:
        facts.append(f"{max(curve.x[-1] for curve in stage.curves):,.0f} batches")
    body = f'<p class="facts">{escape(" · ".join(facts))}</p>' if facts else ""
    body += charts(stage.curves) if stage.curves else ""
    if stage.grids:
        *before, latest = stage.grids
        step = max(1, -(-len(before) // THUMBNAILS))
        thumbs = [embed(path, run.notes, WIDEST_SMALL, f"batch {path.stem.lstrip('0')}") for path in before[::step]]
        body += embed(latest, run.notes, WIDEST, "The same examples at every save; the latest.")
        body += f'<div class="thumbs">{"".join(thumbs)}</div>' if thumbs else ""
    settings = {key: stage.about[key] for key in ("settings", "inputs") if stage.about.get(key)}
    body += details("Settings and inputs of this stage", table(flat(settings).items())) if settings else ""
    return _section(STAGES.get(stage.name, stage.name), body or "<p>Nothing is in its folder yet.</p>")


def _prompts(run: Run) -> str:
    path = run.folder / "samples.jsonl"
    prompts: dict[str, list[Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            sample = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        if isinstance(sample, dict) and "prompt" in sample:
            prompts.setdefault(str(sample["prompt"]), []).append(sample.get("clip_score"))
    rows = []
    for prompt, scores in prompts.items():
        known = [score for score in scores if is_number(score)]
        rows.append([prompt, len(scores), f"{sum(known) / len(known):.3f}" if known else "–"])
    meaning = "<p>The score is the mean cosine of prompt and picture in the CLIP that conditions the generator.</p>"
    return details("The prompts", meaning + table(rows, ["Prompt", "Images", "CLIP score"])) if rows else ""


def _origin(run: Run) -> str:
    command = run.about.get("command", "")
    command = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    html = f"<h3>The command</h3><pre>{escape(command)}</pre>" if command else ""
    versions = {name: value for name, value in flat(run.about).items() if name.partition(".")[0] != "command"}
    html += f"<h3>Where it ran</h3>{table(versions.items())}" if versions else ""
    return html + (details("Settings: config.yaml", f"<pre>{escape(run.config)}</pre>") if run.config else "")


def _picture(run: Run, name: str, caption: str, least: int = 0) -> str:
    path = run.folder / name
    return embed(path, run.notes, WIDEST, caption, least) if path.is_file() else ""


def embed(path: Path, notes: list[str], widest: int, caption: str, least: int = 0) -> str:
    """A <figure> with the picture as a data URI, made smaller when wider than `widest` pixels.

    It is as wide as the page lets it be, but no less than `least` pixels: then it scrolls. A picture that cannot be
    read becomes a line in `notes`.
    """
    try:
        content = path.read_bytes()
        with Image.open(path) as image:
            image.load()
            kind = image.format or "PNG"
            if image.width > widest:
                image = image.convert("RGB").resize((widest, round(image.height * widest / image.width)), Image.LANCZOS)
                buffer = io.BytesIO()
                image.save(buffer, kind := "WEBP", quality=90)
                content = buffer.getvalue()
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises on bad files
        notes.append(f"{'/'.join(path.parts[-3:])} is not a readable picture")
        return ""
    source = f"data:{Image.MIME[kind]};base64,{base64.b64encode(content).decode()}"
    text, times = escape(caption), max(1, NARROW // width)
    style = f"width:min({width * times}px,max(100%,{least}px))" + (";image-rendering:pixelated" if times > 1 else "")
    picture = f'<img src="{source}" width="{width}" height="{height}" style="{style}" alt="{text}">'
    return f'<figure class="picture"><div>{picture}</div><figcaption>{text}</figcaption></figure>'


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """A table whose first column names the row; all cells are escaped."""
    top = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th>{escape(str(name))}</th>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings under dotted names."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out


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


STYLE = """
:root {
  --page: #f6f6f3; --card: #fff; --ink: #16181d; --soft: #5d626c; --line: #e2e2dc;
  --c0: #2a78d6; --c1: #eb6834; --c2: #1b9a6a; --c3: #4a3aa7;
  --c4: #b87a00; --c5: #e34948; --c6: #d0568c; --c7: #008300;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121316; --card: #1b1d21; --ink: #eceef1; --soft: #a0a6b1; --line: #30333a;
    --c0: #4c97ee; --c1: #ef8050; --c2: #2bb682; --c3: #a197f0;
    --c4: #d9a02c; --c5: #ee7373; --c6: #e077a6; --c7: #4fb84f;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
header, main { max-width: 1160px; margin: 0 auto; padding: 0 20px }
header { padding-top: 36px }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere }
header p { margin: 6px 0 20px; color: var(--soft) }
h2 { margin: 0 0 12px; font-size: 1.25rem; line-height: 1.3 }
h3 { margin: 0; font-size: 1rem }
h4 { margin: 0 0 6px; font-size: .875rem }
section, .tile, aside, .tiles { margin: 0 0 20px }
section, .tile, aside { background: var(--card); border: 1px solid var(--line); border-radius: 10px }
section { padding: 20px }
aside { padding: 12px 20px; border-left: 4px solid var(--c4) }
aside ul { margin: 4px 0 0; padding-left: 20px; overflow-wrap: anywhere }
.tiles, .pair, .thumbs, .charts { display: grid }
.tiles { grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); gap: 14px }
.tile { margin: 0; padding: 14px 18px }
.tile span, .tile strong { display: block }
.tile span, .tile small, .facts, figcaption, .group p, details p { color: var(--soft); font-size: .875rem }
.tile strong { font-size: 1.9rem; line-height: 1.3 }
.bar { position: relative; height: 8px; margin: 6px 0 8px; border-radius: 4px; background: var(--line) }
.bar i { display: block; height: 100%; border-radius: 4px; background: var(--c0) }
.bar b { position: absolute; top: -3px; width: 2px; height: 14px; margin-left: -1px; background: var(--ink) }
.facts { margin: -8px 0 14px }
figure { margin: 0; min-width: 0 }
figcaption { margin-top: 4px }
.picture > div, .wide { overflow-x: auto }
.picture img { display: block; height: auto; border-radius: 4px }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 20px }
.thumbs { grid-template-columns: repeat(auto-fill, minmax(min(45%, 150px), 1fr)); gap: 14px; margin-top: 14px }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 24px; margin-bottom: 16px }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums }
svg .grid { stroke: var(--line) }
svg polyline { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round }
svg circle { fill: currentColor }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0 0; padding: 0; font-size: .8125rem }
.legend li { list-style: none }
.legend i { display: inline-block; width: 12px; height: 3px; margin-right: 6px; vertical-align: middle }
.legend i { background: currentColor }
.c0 { color: var(--c0) } .c1 { color: var(--c1) } .c2 { color: var(--c2) } .c3 { color: var(--c3) }
.c4 { color: var(--c4) } .c5 { color: var(--c5) } .c6 { color: var(--c6) } .c7 { color: var(--c7) }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 26px 40px }
.whole { grid-column: 1 / -1 }
.group { min-width: 0 }
.group p { margin: 2px 0 6px; max-width: 90ch }
.figures table { width: 100% }
.whole table { width: auto }
.figures td, .whole thead th { white-space: nowrap }
td { overflow-wrap: anywhere }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums }
th, td { padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
tbody th { font-weight: 400; color: var(--soft) }
thead th { font-weight: 600; font-size: .8125rem; vertical-align: bottom }
h3 + .wide { margin-bottom: 8px }
details { margin-top: 12px }
summary { cursor: pointer; color: var(--c0); margin-bottom: 8px }
pre { margin: 6px 0 16px; padding: 12px; border-radius: 6px; background: var(--page); font-size: .8125rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 600px) {
  header, main { padding: 0 12px }
  header { padding-top: 20px }
  section { padding: 14px }
}
"""
