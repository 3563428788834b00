import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipgen.errors import UserError
from clipgen.evaluation.curves import Curve, chart, charts, compact, log_ticks, read_curves, thin, ticks
from clipgen.evaluation.figures import duration, show
from clipgen.evaluation.report import write_report

VOID = {"meta", "img", "line", "circle", "polyline"}


class Page(HTMLParser):
    """What a browser would see: the text, the tags with their attributes; fails on a tag that is not closed."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID - {"polyline"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(path: Path, width: int = 40, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "teal").save(path)


def stage(run: Path, name: str, rows: str) -> None:
    for file in ("000200.png", "000400.png", "latest.png"):
        picture(run / name / "grids" / file)
    about = {"stage": name, "status": "done", "seconds": 200.0, "settings": {"lr": 0.001}, "inputs": {"shards": "ab12"}}
    (run / name / "stage.json").write_text(json.dumps(about))
    (run / name / "metrics.csv").write_text(rows)


@pytest.fixture
def complete(tmp_path) -> Path:
    run = tmp_path / "birds"
    stage(
        run, "vqgan", "epoch,step,train/l1,val/psnr,val/usage,lr\n0,199,0.3,,,0.001\n0,399,0.1,,,0\n0,399,,21.5,0.9,\n"
    )
    stage(run, "transformer", "epoch,step,train/loss,val/loss\n0,199,4.5,\n0,399,3.5,\n0,399,,3.25\n")
    for name in ("samples.png", "nearest.png", "reconstructions.png"):
        picture(run / name)
    (run / "config.yaml").write_text("name: birds\nprompts:\n- '<script>alert(1)</script> & круг'\n", encoding="utf-8")
    (run / "run.json").write_text(json.dumps({"command": ["clipgen", "run", "a = b"], "torch": "2.11.0", "threads": 2}))
    prompts = ["a <i>red</i> kreis, “rot” = 圆"] * 2
    (run / "samples.jsonl").write_text("".join(json.dumps({"prompt": p, "clip_score": 0.25}) + "\n" for p in prompts))
    metrics = {
        "judge.shape": 0.874,
        "judge.held_out.shape": 0.75,
        "judge.chance.shape": 1 / 6,
        "judge.ceiling.shape": 0.99,
        "judge.foreground": 0.9625,
        "spread.x": 0.11,
        "spread.training.x": 0.125,
        "clip.captions_seen": 20000,
        "vqgan.psnr": 21.5,
        "images.train": 18000,
        "seconds.total": 431.2,
        "own.figure": 3,
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


def test_a_complete_run_shows_all_its_parts(complete):
    path = write_report(complete)
    assert path == complete / "report.html"
    page = Page(path)
    assert "Not complete" not in page.text
    assert "18,000 images without captions" in page.text
    for words in ("87.4 % chance 16.7 % · ceiling 99 %", "Held-out combinations", "Samples of one prompt", "21.50 dB"):
        assert words in page.text
    for words in (
        "7 min 11 s",
        "own.figure 3",
        "clipgen run 'a = b'",
        "torch 2.11.0",
        "settings.lr 0.001",
        "batch 200",
    ):
        assert words in page.text
    assert page.text.count("Captions it was trained on 20,000") == 1
    assert len(page.of("img")) == 3 + 2 * 3
    assert {"train/l1", "val/psnr", "val/usage", "lr", "train/loss", "val/loss"} <= set(page.text.split())
    assert len(page.of("polyline")) == 6


def test_the_page_needs_no_other_file(complete):
    page = Page(write_report(complete))
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.of("img"))
    assert not page.of("link") and not page.of("script") and not page.of("a") and not page.of("iframe")
    assert "http:" not in page.source and "https:" not in page.source and "url(" not in page.source


def test_what_the_user_typed_is_shown_and_never_run(complete):
    page = Page(write_report(complete))
    assert "<script>alert(1)</script> & круг" in page.text
    assert "a <i>red</i> kreis, “rot” = 圆 2 0.250" in page.text
    assert "<script" not in page.source


def test_the_same_run_gives_the_same_page(complete):
    assert write_report(complete).read_bytes() == write_report(complete).read_bytes()


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "metrics.json", "samples.png"])
def test_a_missing_part_is_named(complete, name):
    (complete / name).unlink()
    assert f"({name}): not there yet" in Page(write_report(complete)).text


def test_a_run_that_was_stopped_early_says_what_is_missing(tmp_path):
    (tmp_path / "vqgan").mkdir()
    (tmp_path / "vqgan" / "metrics.csv").write_text("epoch,step,train/l1,val/psnr\n0,49,0.3,\n0,99,nan,\n0,9")
    text = Page(write_report(tmp_path)).text
    assert "stage transformer: not begun" in text and "stage vqgan: not finished" in text
    assert "50 batches" in text


def test_broken_files_are_named_and_do_not_stop_the_report(complete):
    (complete / "metrics.json").write_text('{"judge.shape": 0.')
    (complete / "run.json").write_text("[]")
    (complete / "samples.png").write_bytes((complete / "samples.png").read_bytes()[:60])
    (complete / "samples.jsonl").write_text('{"prompt": "a star"}\n{"prom')
    text = Page(write_report(complete)).text
    for words in ("metrics.json in birds is not readable", "run.json in birds is not readable", "a star 1 –"):
        assert words in text
    assert "birds/samples.png is not a readable picture" in text


def test_what_a_stage_was_warned_of_is_shown(complete):
    (complete / "vqgan" / "warnings.txt").write_text("batch 50: only 3.00% of the codes <b>\nbatch 90: wins\n")
    page = Page(write_report(complete))
    assert "batch 50: only 3.00% of the codes <b>" in page.text and "batch 90: wins" in page.text


def test_the_discriminators_logits_share_a_chart():
    x = np.arange(3.0)
    html = charts([Curve("train/logits_real", x, x), Curve("train/logits_made", x, -x)])
    assert html.count("<svg") == 1 and "Discriminator" in html


def test_figures_that_are_no_numbers_are_shown_as_they_are(complete):
    (complete / "metrics.json").write_text('{"judge.shape": NaN, "seconds.total": null, "vqgan": {"psnr": 20}}')
    text = Page(write_report(complete)).text
    assert "Shape nan" in text and "Total time –" in text and "20.00 dB" in text


def test_a_very_wide_picture_is_made_smaller(complete):
    picture(complete / "samples.png", 2400, 12)
    assert "data:image/webp;base64," in Page(write_report(complete)).of("img")[0]["src"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nothing does not exist: give the folder of a run"):
        write_report(tmp_path / "nothing")
    (tmp_path / "images").mkdir()
    picture(tmp_path / "images" / "bird.png")
    with pytest.raises(UserError, match=r"images is no run folder.*clipgen run"):
        write_report(tmp_path / "images")
    with pytest.raises(UserError, match=r"bird\.png is a file"):
        write_report(tmp_path / "images" / "bird.png")
    assert not (tmp_path / "images" / "report.html").exists()


def test_curves_are_counted_in_batches_and_a_repeated_step_counts_once(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,val/loss\n0,9,3\n0,29,2\n0,19,7\n0,19,2.5\n0,39,inf\n0,49,\n")
    (curve,) = read_curves(path)
    assert curve.name == "val/loss"
    assert curve.x.tolist() == [10, 20, 30] and curve.y.tolist() == [3, 2.5, 2]


def test_a_column_of_batches_is_believed(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,batches,val/loss\n0,0,\n100,50,\n20,,3\n60,,2\n")
    assert read_curves(path)[0].x.tolist() == [10, 30]


def test_an_empty_table_has_no_curves(tmp_path):
    (tmp_path / "metrics.csv").write_text("")
    assert read_curves(tmp_path / "metrics.csv") == []


def test_a_chart_stays_inside_its_frame_and_escapes_names():
    x = np.arange(1000.0)
    html = chart("<Loss>", [Curve("a<b", x, 100 * np.exp(-x / 100) + 0.01)], log=True)
    points = html.split('points="')[1].split('"')[0].split()
    places = np.array([[float(value) for value in point.split(",")] for point in points])
    assert len(places) <= 240
    assert places.min() >= 0 and places[:, 0].max() <= 360 and places[:, 1].max() <= 210
    assert (np.diff(places[:, 1]) >= 0).all()  # a falling loss goes down the page
    assert "<Loss>" not in html and "a<b" not in html


def test_losses_share_a_chart_and_other_quantities_have_their_own():
    names = ["train/l1", "val/loss", "val/psnr", "train/usage", "val/usage", "lr", "val/zero_shot.shape"]
    html = charts([Curve(name, np.array([1.0]), np.array([0.5])) for name in names])
    assert html.count("<svg") == 5 and html.count("<circle") == len(names)


@pytest.mark.parametrize(
    "low, high", [(0, 1), (0.2, 0.3), (-3, 4), (5, 5), (0, 0), (17.9, 27.4), (1e-6, 4e-4), (0, 3e5)]
)
def test_ticks_are_few_and_hold_the_range(low, high):
    values = ticks(low, high, 5)
    assert 2 <= len(values) <= 6
    assert values[0] <= low + 1e-12 and values[-1] >= high - 1e-12


@pytest.mark.parametrize("low, high", [(0.02, 2.1), (1e-6, 3.0), (1.0, 100.0)])
def test_logarithmic_ticks_hold_the_range(low, high):
    values = log_ticks(low, high)
    assert values == sorted(values) and 3 <= len(values) <= 10
    assert values[0] <= low and values[-1] >= high


def test_long_curves_are_averaged():
    x, y = thin(np.arange(1000.0), np.ones(1000), 100)
    assert len(x) == 100 and x[0] == 4.5 and (y == 1).all()


def test_numbers_are_written_for_people():
    assert [compact(v) for v in (0, 0.025, 3e-4, 1200, 12000, 2.5e6)] == ["0", "0.025", "3e-4", "1200", "12k", "2.5M"]
    assert [compact(v, share=True) for v in (0, 0.5, 1)] == ["0%", "50%", "100%"]
    assert [duration(s) for s in (8.53, 200, 7500)] == ["8.53 s", "3 min 20 s", "2 h 5 min"]
    assert [show("judge.shape", v) for v in (1, 0.123, 200)] == ["100 %", "12.3 %", "200"]
