"""The page of a comparison, from a folder as `clipgen compare` leaves it; comparison.py makes one up."""

import json

import pytest

from clipgen.errors import UserError
from clipgen.evaluation.compare_figures import best_arms, family, group_of, metric_tables, power, rates, rounded
from clipgen.evaluation.compare_report import write_comparison
from clipgen.evaluation.intervals import forest, over_captions, signed


@pytest.fixture
def folder(comparison, tmp_path):
    """A finished comparison but for one training."""
    path = tmp_path / "compare_demo"
    comparison.write(path, prompts=2, each=2)
    return path


def change(folder, **parts) -> None:
    content = json.loads((folder / "compare.json").read_text())
    (folder / "compare.json").write_text(json.dumps(content | parts))


def test_a_comparison_shows_all_its_parts(folder, comparison, read_page):
    page = read_page(write_comparison(folder))
    for words in (
        "paired_1pct, seed 0: stopped after 1,200 of 2,200 batches",
        "equal training cost, 2.41 × 10¹⁴ FLOPs", "equal images seen, 83,200 images",
        "clipgen.shapes.judge, which reads pixels and knows no CLIP; N = 4,000; resize: none",
        "N = 4,000; resize: 256 px (bicubic), then PIL's GaussianBlur(k)", "reference: 2,000 validation pictures",
        "500 reference pictures are fewer than the 2,000 that it needs",
        "FID-k by Inception its weights are not at hand",
        "paired, shape right 95 % 94.6 % not met", "paired, colour of the object right 95 % 96.1 % met",
        "clipgen as a share of paired, shape right 97 % – no figure", "0 points 27.3 points met",
        "140 development prompts", "183 test prompts, which were asked once, for 4 pictures each", "1 seed: 0.",
        "guidance scale 2, temperature 0.7, top k 0, bridge mean, fidelity 0.8",
        "0.003, Muon 0.02 guidance scale 2", "768,000", "2 cores of an AMD EPYC", "torch 2.15.0", "0589163",
        "clipgen compare experiment=compare_demo", "clipgen train name=paired stage=paired",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.text.count("circular") == 2  # in both tables; the sentence about it begins with a capital
    assert "“there is a cross that is yellow and small" in page.text
    assert len(page.of("img")) == 2 * 2 * len(comparison.ABOUT)
    curves_and_shares = [each for each in page.of("polyline") if "points" in each]
    assert len(curves_and_shares) == len(comparison.ABOUT) + 2 * 6  # learning curves; two arms over captions, 6 figures


def test_a_figure_stands_in_its_arms_row_and_metrics_column(folder, comparison, read_page):
    page = read_page(write_comparison(folder))
    rows = page.source.split("<tr><th>plain_swap</th>")
    judged = next(row for row in rows if row.startswith("<td>61.2 %"))
    assert judged.split("</tr>")[0].startswith("<td>61.2 %<small>")
    assert [cell.split("<")[0] for cell in judged.split("</tr>")[0].split("<td>")[1:]] == [
        "61.2 %", "62.7 %", "64.2 %", "65.7 %", "67.2 %",
    ]  # fmt: skip


def test_what_the_tokenizers_leave_stands_under_the_arms(folder, comparison, read_page, tmp_path):
    page = read_page(write_comparison(folder))
    own = page.source.split("<tr><th>the tokenizer of clip_gen_paper<small>")[1].split("</tr>")[0]
    assert [cell.split("<")[0] for cell in own.split("<td>")[1:]] == ["–", "71.3 %", "100.0 %", "–", "–"]
    content = comparison.content()
    content["arms"] = {name: arm for name, arm in content["arms"].items() if name != "clip_gen_paper"}
    (tmp_path / "compare.json").write_text(json.dumps(content))
    assert "<tr><th>the tokenizer<small>" in read_page(write_comparison(tmp_path)).source
    for arm in content["arms"].values():
        del arm["about"]["ceiling"]  # as older ones are
    (tmp_path / "compare.json").write_text(json.dumps(content))
    assert "the tokenizer<small>" not in read_page(write_comparison(tmp_path)).source


def test_a_rate_at_the_end_of_those_tried_is_called_one():
    for lr, said in ((1e-3, "(the least of 3 tried)"), (2e-3, "(of 3 tried)"), (4e-3, "(the largest of 3 tried)")):
        assert rates({"lr": lr, "muon_lr": 0.02, "lr_tried": [1e-3, 2e-3, 4e-3]}) == f"{lr:g}, Muon 0.02 {said}"
    for alone in ({"lr_tried": [1e-3]}, {"lr_tried": None}, {}):
        assert rates({"lr": 1e-3, **alone}) == "0.001"


def test_a_circular_figure_is_never_the_best():
    arms = {
        "flattered": {"clip.score": {"mean": 0.9}, "about": {"circular": ["clip.score"]}},
        "good": {"clip.score": {"mean": 0.5}, "about": {}},
        "poor": {"clip.score": {"mean": 0.4}, "about": {}},
    }
    assert best_arms(arms, "clip.score", "higher") == {"good"}
    assert best_arms(arms, "clip.score", "lower") == {"poor"}
    assert best_arms(arms, "clip.score", None) == set()
    assert best_arms({name: arms["good"] for name in "abc"}, "clip.score", "higher") == set()  # nothing to tell apart


def test_each_extractor_has_a_table_of_its_own():
    names = ["fid_k.0", "fid_k.8", "inception.fid_k.0", "judge.shape", "judge.held_out.shape", "cmmd", "clip.score"]
    arms = {"clipgen": {name: {"mean": 0.5} for name in names}}
    assert [group_of(name) for name in names[2:]] == ["fid_k.", "judge.", "judge.held_out.", "", "clip."]
    tables = metric_tables(arms, {}).split("<h3>")[1:]
    heads = [[cell.split("<")[0] for cell in each.split("<th>")[2:-1]] for each in tables]
    assert heads == [["judge.shape"], ["judge.held_out.shape"], ["clip.score"], ["fid_k.0", "fid_k.8"],
                     ["inception.fid_k.0"], ["cmmd"]]  # fmt: skip


def test_the_page_needs_no_other_file_and_runs_nothing_that_was_typed(folder, read_page):
    grids = json.loads((folder / "compare.json").read_text())["grids"]
    grids["prompts"][0] = "<script>alert(1)</script> & круг"
    change(folder, grids=grids, hardware="<img src=x>")
    page = read_page(write_comparison(folder))
    assert "“<script>alert(1)</script> & круг”" in page.text
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.of("img"))
    assert "<script" not in page.source and not page.of("link") and not page.of("a")
    assert "http:" not in page.source and "https:" not in page.source and "url(" not in page.source


def test_the_same_folder_gives_the_same_page(folder):
    assert write_comparison(folder).read_bytes() == write_comparison(folder).read_bytes()


def test_a_comparison_that_has_only_begun_has_a_page(tmp_path, read_page):
    (tmp_path / "compare.json").write_text(json.dumps({"arms": {}, "seeds": [0, 1]}))
    assert "no arm has been judged yet" in read_page(write_comparison(tmp_path)).text
    arm = {"about": {}, "judge.shape": {"mean": 0.5, "sem": None, "n": 1}, "fid_k.0": {"mean": None}}
    (tmp_path / "compare.json").write_text(json.dumps({"arms": {"clipgen": arm}}))
    text = read_page(write_comparison(tmp_path)).text
    assert "judge.shape Arm" not in text and "clipgen 50.0 %" in text
    assert "how it was measured is not recorded" in text and "Differences" not in text


def test_a_missing_picture_is_told_and_the_others_stay(folder, comparison, read_page):
    (folder / "grids/paired/00-0.png").unlink()
    page = read_page(write_comparison(folder))
    assert "grids/paired/00-0.png is not a readable picture" in page.text
    assert len(page.of("img")) == 2 * 2 * len(comparison.ABOUT) - 1


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), ("{", "is no JSON"), ("[]", "is no comparison"), ("{}", "no arms")]
)
def test_what_cannot_be_read_is_said_in_a_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "compare.json").write_text(content)
    with pytest.raises(UserError, match=said):
        write_comparison(tmp_path)


def test_a_difference_is_in_colour_where_its_interval_is_clear_of_zero():
    rows = [
        {"a": "x", "b": name, "mean": mean, "low": mean - 0.1, "high": mean + 0.1}
        for name, mean in (("above", 0.3), ("around", 0.05), ("below", -0.4))
    ]
    drawn = forest("Shape", "judge.shape", True, rows)
    circles = [part.split("/>")[0] for part in drawn.split("<circle ")[1:]]
    assert [part.split('"')[1] for part in circles] == ["c0", "unclear", "c0"]
    above, around, below = (float(part.split('cx="')[1].split('"')[0]) for part in circles)
    assert below < around < above
    zero = float(drawn.split('class="zero" x1="')[1].split('"')[0])
    assert below < zero < around
    assert "x − below" in drawn and "−40 [−50, −30]" in drawn and "+30 [+20, +40]" in drawn
    assert "right of 0: the first is better" in drawn
    assert "left of 0: the first is better" in forest("FID", "fid_k.0", False, rows)
    assert forest("Shape", "judge.shape", True, [{"a": "x", "b": "y", "mean": None}]) == ""
    circular = forest("CLIP score", "clip.score", True, [rows[0] | {"circular": True}])
    assert "x − above, circular" in circular and '<circle class="unclear"' in circular


def test_accuracy_over_captions_has_an_arm_without_any_as_a_line():
    points = {0.01: {"mean": 0.3, "low": 0.25, "high": 0.35}, 1.0: {"mean": 0.9}, 0.1: {"mean": 0.6}}
    drawn = over_captions("Shape", "judge.shape", {"paired": points}, {"clipgen": {"mean": 0.8}})
    assert "1 %" in drawn and "10 %" in drawn and "100 %" in drawn
    assert "clipgen, no captions <b>80 %</b>" in drawn and 'class="level c0"' in drawn
    line = drawn.split('<polyline class="c1" points="')[1].split('"')[0]
    x, y = zip(*(map(float, point.split(",")) for point in line.split()), strict=True)
    assert list(x) == sorted(x) and list(y) == sorted(y, reverse=True)  # a higher share stands higher
    level = float(drawn.split('class="level c0"')[1].split('y1="')[1].split('"')[0])
    assert y[2] < level < y[1]
    assert over_captions("Shape", "judge.shape", {"paired": {1.0: {"mean": 0.9}}}, {}) == ""  # nothing to compare


def test_numbers_are_shown_to_what_their_interval_allows():
    assert rounded("fid_k.0", 12.3456, 0.4) == "12.35" and rounded("fid_k.0", 12.3456, 40) == "12"
    assert rounded("judge.shape", 0.9, 0.01) == "90.0 %" and rounded("density", 0.12345, 0.02) == "0.123"
    assert power(2.41e14) == "2.41 × 10¹⁴" and power(0.0031) == "3.10 × 10⁻³"
    assert signed("fid_k.0", -1.234) == "−1.23" and signed("judge.shape", 0.0) == "0"
    assert family("paired_clip_0.1pct") == "paired_clip" and family("plain_swap") == "plain_swap"
