"""report.html of a comparison: compare.json and the grids beside it on one page of one file that needs no network.

Every part may be absent; the page then says which. `compare_figures.py` makes the tables, `intervals.py` the drawings.
"""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipgen.data.atomic import replacing
from clipgen.errors import UserError
from clipgen.evaluation.compare_figures import (
    Arms,
    arms_table,
    commands,
    cost_table,
    family,
    group_of,
    is_share,
    metric_tables,
    power,
    title_of,
    value_of,
    versions_table,
)
from clipgen.evaluation.curves import Curve, chart
from clipgen.evaluation.figures import is_number
from clipgen.evaluation.intervals import forest, over_captions
from clipgen.page import details, document, section, table, thumbnails

FILE = "compare.json"
AGAIN = "the same `clipgen compare` writes it again"
CELL = 48  # pixels of a picture in the grids: four of each of five arms beside each other
DRAWN = (
    "judge.all", "judge.binding", "judge.count", "judge.shape", "judge.foreground", "judge.background", "clip.score",
)  # fmt: skip
UNCLIP, C3 = "arXiv 2204.06125, section 5.1", "C3 (ICLR 2024), poster"
PUBLISHED = (  # read in the paper's own text or poster: system, how it is asked, data, FID, source
    ("unCLIP's decoder", "text embedding in the image embedding's place", "its own test set", "16.55", UNCLIP),
    ("unCLIP's decoder", "trained on text embeddings", "its own test set", "9.16", UNCLIP),
    ("unCLIP", "image embedding made from text by a prior", "its own test set", "7.99", UNCLIP),
    ("LAFITE, without captions", "plain swap", "COCO", "29.8", C3),
    ("LAFITE, without captions", "each side loses its mean", "COCO", "21.7", C3),
    ("LAFITE, without captions", "noise in training", "COCO", "19.8", C3),
    ("LAFITE, without captions", "both", "COCO", "19.6", C3),
)


def write_comparison(folder: Path) -> Path:
    """Make `FOLDER/report.html` from its compare.json, and return its path; UserError where that cannot be read."""
    folder = Path(folder)
    content = read_comparison(folder)
    unfinished = content.get("unfinished", [])
    notes = [f"{each.get('arm')}, seed {each.get('seed')}: {each.get('why')}" for each in unfinished]
    html = page(folder, content, notes)
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def read_comparison(path: Path) -> dict[str, Any]:
    """What a compare.json holds, or the one in a folder that `clipgen compare` made; UserError where it holds none."""
    path = path / FILE if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the folder that `clipgen compare` made") from None
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise UserError(f"{path} is no JSON ({problem}); {AGAIN}") from problem
    if not isinstance(content, dict) or not isinstance(content.get("arms"), dict):
        raise UserError(f"{path} is no comparison: it has no arms; {AGAIN}")
    return content


def page(folder: Path, content: Mapping[str, Any], notes: list[str]) -> str:
    """The whole page as HTML; what is missing of it is added to `notes`."""
    arms, metrics = content["arms"], content.get("metrics", {})
    if not arms:
        notes.append("no arm has been judged yet")
    budget = content.get("budget", {})
    flops = f"{power(budget['flops'])} FLOPs" if is_number(budget.get("flops")) else "the same FLOPs"
    images = f"{budget['images']:,.0f} images" if is_number(budget.get("images")) else "as many images"
    parts = [
        section("What was aimed at", bars(content.get("bars", []), metrics)),
        section("The arms", intro(content) + arms_table(arms) if arms else ""),
        section(f"Main table: at equal training cost, {flops} of stage 2", main_table(arms, metrics)),
        section("Left out", left_out(content.get("left_out", []))),
        section("Differences", differences(content.get("differences", []), metrics, arms)),
        section("How many captions is unlabeled data worth?", captions_needed(arms, metrics)),
        section("Side by side", grids(folder, content.get("grids", {}), arms, notes)),
        section(f"Second table: at equal images seen, {images}", second_table(content, metrics)),
        section("Learning curves", curves(content.get("curves", {}), metrics)),
        section("What it cost", cost_table(arms, content.get("clip", {}), content.get("trainings_at_once", 1))),
        section("Figures of papers, not to be read beside those above", published()),
        section("How it was made", origin(folder, content)),
    ]
    lead = "Ways to train a text-to-image generator, on the same pictures, at the same cost and size, side by side."
    return document(folder.resolve().name, lead, "".join(parts), notes)


def bars(aims: list[Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    if not aims:
        return ""
    rows = ""
    for aim in aims:
        what = str(aim.get("what", ""))
        named = max((metric for metric in metrics if metric in what), key=len, default="")
        what = what.replace(named, str(metrics[named].get("title", named)).lower()) if named else what
        state, word = {True: ("met", "met"), False: ("missed", "not met")}.get(aim.get("met"), ("open", "no figure"))
        shares = not what.endswith("above")
        values = (_share(aim.get(key)) if shares else _points(aim.get(key)) for key in ("limit", "value"))
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        rows += f'<tr><th>{escape(what)}</th>{cells}<td class="{state}">{word}</td></tr>'
    head = "<tr><th>Aim</th><th>At least</th><th>Found</th><th></th></tr>"
    return f'<div class="wide words"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _share(value: Any) -> str:
    return f"{100 * value:.1f} %".replace(".0 %", " %") if is_number(value) else "–"


def _points(value: Any) -> str:
    return f"{100 * value:.1f} points".replace(".0 p", " p") if is_number(value) else "–"


def intro(content: Mapping[str, Any]) -> str:
    world, seeds = content.get("world", {}), content.get("seeds", [])
    prompts = world.get("prompts", {})
    words = [f"World: {world.get('name', '–')}."]
    pictures = world.get("images_of_a_prompt", {}).get("test")
    of_each = (
        f", for {pictures} pictures each (an arm that keeps the best of many: all it keeps)"
        if is_number(pictures)
        else ""
    )
    if is_number(prompts.get("development")) and is_number(prompts.get("test")):
        how = f"on {prompts['development']} development prompts, with as many trials for each arm"
        if content.get("chosen_before"):
            how = "by an earlier comparison"
        words.append(
            f"Settings were chosen {how}; "
            f"the figures are of {prompts['test']} test prompts, which were asked once{of_each}."
        )
    words.append(f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}: {', '.join(map(str, seeds))}." if seeds else "")
    if world.get("name") == "captions" and not world.get("prompts_file"):
        words.append(
            "The prompts are captions of validation pictures, by whose loss a training's best moment is chosen and "
            "with which the distances compare: a little easier than prompts of elsewhere, most so for the arms "
            "trained on captions, in whose loss these captions are."
        )
    if len(seeds) == 1:
        words.append("With one seed the intervals speak of prompts only, not of another training.")
    return f'<p class="prose">{escape(" ".join(words))}</p>'


def main_table(arms: Arms, metrics: Mapping[str, Any]) -> str:
    if not arms:
        return ""
    lead = (
        "Mean, and under it the 95 % interval by bootstrap over prompts and seeds; of whole sets, as the distances, "
        "over seeds alone. Tokenizers and CLIP are the same for all seeds. N is the number of pictures of one seed. "
        "Bold: the best mean of a column, whether or not others lie in its interval. Circular: its judge took part in "
        "training, conditioning or selecting samples, so that the figure flatters; it is never the best. Choosing "
        "settings on development prompts does not count as that."
    )
    return f'<p class="prose">{escape(lead + of_one_seed(arms))}</p>{metric_tables(arms, metrics)}'


def of_one_seed(arms: Arms) -> str:
    """A sentence on the arms of a single seed among others of more; empty where there are none."""
    seeds = {name: len(arm.get("about", {}).get("seeds") or ()) for name, arm in arms.items()}
    few = [name for name, n in seeds.items() if n == 1]
    if len(few) in (0, len(seeds)):
        return ""
    return f" Of one seed, so that the interval speaks of prompts only: {', '.join(few)}."


def second_table(content: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    arms = content.get("equal_images", {}).get("arms", {})
    tables = metric_tables(arms, metrics, explained=False)
    lead = "Measured as above, and asked by the settings that were chosen there."
    seeds = sorted({seed for arm in arms.values() for seed in arm.get("about", {}).get("seeds") or []})
    if len(seeds) < len(content.get("seeds", [])):
        lead += f" Of seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} alone."
    return f'<p class="prose">{lead}</p>{tables}' if tables else ""


def left_out(items: list[Mapping[str, Any]]) -> str:
    return table([[each.get("metric", ""), each.get("why", "")] for each in items], ["Figure", "Why"]) if items else ""


def drawn_metrics(found: list[str], metrics: Mapping[str, Any]) -> list[str]:
    """Those to draw: the best known first, and of any others all that have a direction."""
    known = [metric for metric in DRAWN if metric in found]
    return known + [m for m in found if m not in known and metrics.get(m, {}).get("better")]


def differences(found: list[Mapping[str, Any]], metrics: Mapping[str, Any], arms: Arms) -> str:
    by_metric: dict[str, list[Mapping[str, Any]]] = {}
    for each in found:
        by_metric.setdefault(str(each.get("metric")), []).append(each)
    panels = [
        forest(title_of(metric, metrics), metric, metrics.get(metric, {}).get("better") != "lower", by_metric[metric])
        for metric in drawn_metrics(list(by_metric), metrics)
    ]
    if not (panels := [panel for panel in panels if panel]):
        return ""
    lead = (
        "Paired by seed and prompt, with the 95 % interval by bootstrap over both; shares in percentage points. "
        "In colour: clear of 0, and by a judge that took no part."
    )
    first, more = (f'<div class="charts">{"".join(some)}</div>' for some in (panels[:3], panels[3:]))
    more = details("More differences", more) if panels[3:] else ""
    return f'<p class="prose">{escape(lead + of_one_seed(arms))}</p>{first}{more}'


def captions_needed(arms: Arms, metrics: Mapping[str, Any]) -> str:
    shares: dict[str, dict[float, str]] = {}  # arm → share → variant
    for name, arm in arms.items():
        if is_number(share := arm.get("about", {}).get("captions_share")):
            shares.setdefault(family(name), {})[share] = name
    several = {arm: points for arm, points in shares.items() if len(points) > 1 and all(share > 0 for share in points)}
    names = list(dict.fromkeys(m for arm in arms.values() for m in arm if m != "about"))
    panels = []
    for metric in drawn_metrics([m for m in names if group_of(m) in ("judge.", "clip.")], metrics):
        lines = {
            arm: {
                share: arms[name][metric] for share, name in points.items() if is_number(value_of(arms[name], metric))
            }
            for arm, points in several.items()
        }
        level = {"clipgen": arms["clipgen"][metric]} if is_number(value_of(arms.get("clipgen", {}), metric)) else {}
        panels.append(over_captions(title_of(metric, metrics), metric, {a: p for a, p in lines.items() if p}, level))
    if not (panels := [panel for panel in panels if panel]):
        return ""
    lead = "Arms that need captions, with a share of them; clipgen uses none: the dashed line, with its interval."
    return f'<p class="prose">{escape(lead + of_one_seed(arms))}</p><div class="charts">{"".join(panels)}</div>'


def grids(folder: Path, found: Mapping[str, Any], arms: Arms, notes: list[str]) -> str:
    """For each prompt the pictures of every arm, with the same seed, and the prompt under them."""
    of_arms = found.get("arms", {})
    order = [name for name in arms if name in of_arms] + [name for name in of_arms if name not in arms]
    blocks = ""
    for i, prompt in enumerate(found.get("prompts", [])):
        figures = []
        for name in order:
            paths = of_arms[name][i] if i < len(of_arms[name]) else []
            pictures = [picture for path in paths if (picture := _open(folder, path, notes))]
            if pictures:
                figures.append((pictures, name))
        if figures:
            caption = f"<figcaption>“{escape(str(prompt))}”</figcaption>"
            blocks += f'<figure class="asked">{thumbnails(figures, CELL)}{caption}</figure>'
    if not blocks:
        return ""
    seed = f"seed {found['seed']}" if "seed" in found else "the same seed"
    kept = {name: arms.get(name, {}).get("about", {}).get("kept") for name in order}
    chosen = "".join(f"; of {name} what its recipe keeps, {how}" for name, how in kept.items() if how)
    lead = f"The same prompts and {seed} in every arm, without any selection{chosen}."
    return f'<p class="prose">{escape(lead)}</p>{blocks}'


def _open(folder: Path, path: str, notes: list[str]) -> Image.Image | None:
    try:
        with Image.open(folder / path) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises on bad files
        notes.append(f"{path} is not a readable picture")
        return None


def curves(found: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    names = dict.fromkeys(key for points in found.values() for point in points for key in point)
    charts = []
    for key in (name for name in names if name not in ("flops", "images")):
        lines = []
        for arm, points in found.items():
            known = [(p["flops"], p[key]) for p in points if is_number(p.get("flops")) and is_number(p.get(key))]
            if known:
                lines.append(Curve(arm, *np.array(sorted(known), dtype=float).T))
        if lines:
            title = "Validation loss, nats an image token" if key == "val_loss" else title_of(key, metrics)
            charts.append(chart(title, lines, share=is_share(key), axis="training FLOPs"))
    if not charts:
        return ""
    lead = "Losses compare only between arms with the same image tokenizer."
    return f'<p class="prose">{lead}</p><div class="charts">{"".join(charts)}</div>'


def published() -> str:
    lead = (
        "Of other data, networks and features, as their authors print them: what a plain swap of embeddings costs "
        "elsewhere. CLIP-GEN's and CogView's own tables are not here: they could not be read in the papers."
    )
    shown = table(PUBLISHED, ["System", "Setting", "Data", "FID", "Source"])
    return f'<p class="prose">{lead}</p><div class="words">{shown}</div>'


def origin(folder: Path, content: Mapping[str, Any]) -> str:
    html = f"<h3>The command</h3><pre>{escape(str(content['command']))}</pre>" if content.get("command") else ""
    html += commands(content.get("commands", []))
    html += versions_table({key: value for key, value in content.items() if key != "command"})
    config = folder / "config.yaml"
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        html += details("Settings: config.yaml", f"<pre>{escape(text)}</pre>")
    return html
