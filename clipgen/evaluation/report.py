"""report.html: what a run folder holds, on one page of one file that needs nothing else and no network.

Every part may be absent; the page then says which. `curves.py` draws the curves.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from clipgen.data.atomic import PREVIOUS, replacing
from clipgen.errors import UserError
from clipgen.evaluation.curves import Curve, charts, read_curves
from clipgen.evaluation.figures import duration, figures, headline, is_number
from clipgen.page import details, document, embed, section, table

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
LEGIBLE = 640  # pixels; on a narrower screen the samples, with their labels, are moved sideways instead of shrunk
THUMBNAILS = 6  # of the grids that a stage saved on its way


@dataclass
class Stage:
    """One stage folder: its stage.json, its curves, its grids in order, the latest last, and what it was warned of."""

    name: str
    about: dict[str, Any]
    curves: list[Curve]
    grids: list[Path]
    warnings: list[str]


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
    for stage in run.stages:
        if (status := str(stage.about.get("status", "not finished"))) not in DONE:
            run.notes.append(f"stage {stage.name}: {status}")
    if "config.yaml" not in absent:
        run.config = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    run.about = _read_json(folder / "run.json", run.notes)
    run.metrics = flat(_read_json(folder / "metrics.json", run.notes))
    begun = {stage.name for stage in run.stages} | (
        {"vqgan"} if "vqgan.psnr" in run.metrics else set()
    )  # one was given
    run.notes += [f"stage {name}: not begun" for name in EXPECTED if name not in begun]
    return run


def _is_stage(path: Path) -> bool:
    return not path.name.endswith(PREVIOUS) and any(
        (path / name).exists() for name in ("stage.json", "metrics.csv", "grids")
    )


def _read_stage(folder: Path, notes: list[str]) -> Stage:
    log = folder / "metrics.csv"
    grids = sorted(path for path in folder.glob("grids/*.png") if path.name != "latest.png")
    if (latest := folder / "grids" / "latest.png").is_file():
        grids.append(latest)
    about = _read_json(folder / "stage.json", notes)
    warned = folder / "warnings.txt"
    warnings = warned.read_text(encoding="utf-8", errors="replace").splitlines() if warned.is_file() else []
    return Stage(folder.name, about, read_curves(log) if log.is_file() else [], grids, warnings)


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
        headline(run.metrics),
        section("Samples", samples + _prompts(run)),
        section("A closer look", f'<div class="pair">{"".join(pictures)}</div>' if any(pictures) else ""),
        section("Figures", figures(run.metrics)),
        *stages,
        section("How it was made", _origin(run)),
    ]
    images = run.metrics.get("images.train")
    size = f"{images:,.0f} images" if is_number(images) else "a folder of images"
    captions = "with" if any(stage.name == "paired" for stage in run.stages) else "without"
    lead = f"A text-to-image generator that clipgen trained on {size} {captions} captions, in two stages."
    return document(name, lead, "".join(parts), run.notes)  # the parts may have added to the notes


def _stage(run: Run, stage: Stage) -> str:
    facts = [str(stage.about["status"])] if "status" in stage.about else []
    if is_number(seconds := stage.about.get("seconds")):
        facts.append(duration(seconds))
    if stage.curves:
        facts.append(f"{max(curve.x[-1] for curve in stage.curves):,.0f} batches")
    body = f'<p class="facts">{escape(" · ".join(facts))}</p>' if facts else ""
    if stage.warnings:
        body += f"<aside><ul>{''.join(f'<li>{escape(line)}</li>' for line in stage.warnings)}</ul></aside>"
    body += charts(stage.curves) if stage.curves else ""
    if stage.grids:
        *before, latest = stage.grids
        step = max(1, -(-len(before) // THUMBNAILS))
        thumbs = [embed(path, run.notes, WIDEST_SMALL, f"batch {path.stem.lstrip('0')}") for path in before[::step]]
        body += embed(latest, run.notes, WIDEST, "The same examples at every save; the latest.")
        body += f'<div class="thumbs">{"".join(thumbs)}</div>' if thumbs else ""
    settings = {key: stage.about[key] for key in ("settings", "inputs") if stage.about.get(key)}
    body += details("Settings and inputs of this stage", table(flat(settings).items())) if settings else ""
    return section(STAGES.get(stage.name, stage.name), body or "<p>Nothing is in its folder yet.</p>")


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


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings under dotted names."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out
