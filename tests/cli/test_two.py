"""The two-object world on the command line: drawn, asked about, judged."""

import json

import pytest
from PIL import Image

from clipgen.shapes import two_prompts


@pytest.fixture
def few(monkeypatch):
    """Every tenth of the prompts, so that a random model is judged in a second."""
    some = two_prompts.test_prompts()[::10]
    monkeypatch.setattr(two_prompts, "test_prompts", lambda: some)


def test_its_pictures_and_captions_are_drawn(clipgen, tmp_path, one_line):
    out = tmp_path / "pictures"
    words = ("draw", "world=two", f"out={out}", "n=30", "captions=true")
    assert clipgen(*words).status == 0
    lines = (tmp_path / "pictures.tsv").read_text().splitlines()
    assert len(list(out.rglob("*.png"))) == 30 and len(lines) == 31
    assert any(" two " in line or " three " in line or "\ttwo " in line or "\tthree " in line for line in lines)
    assert "skipped" in clipgen(*words).said
    assert "holds other pictures" in one_line(clipgen(*words, "world=shapes"))


def test_pictures_of_a_drawing_that_was_killed_are_not_mixed_with_others(clipgen, tmp_path, one_line, monkeypatch):
    words = ("draw", f"out={tmp_path / 'drawn'}", "captions=true")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clipgen(*words, "n=9")
    assert "holds other pictures" in one_line(clipgen(*words, "n=5"))
    assert clipgen(*words, "n=9").status == 0
    assert "skipped" in clipgen(*words, "n=9").said and len(list(tmp_path.rglob("*.png"))) == 9


def test_what_it_does_not_have_is_said(clipgen, one_line, tmp_path):
    assert "left_out=0.5: captions of world=two name everything" in one_line(
        clipgen("draw", "world=two", f"out={tmp_path / 'x'}", "left_out=0.5")
    )
    for words in (("draw", f"out={tmp_path / 'x'}"), ("evaluate", "model=m"), ("run", f"images={tmp_path}")):
        assert "world=three is unknown; take shapes or two" in one_line(clipgen(*words, "world=three"))


def test_without_its_clip_a_run_says_how_to_make_it(clipgen, one_line, tmp_path, monkeypatch, pictures):
    monkeypatch.chdir(tmp_path)
    line = one_line(clipgen("run", "experiment=two", f"images={pictures}"))
    assert "clip.model=local-dir:outputs/two_clip/clip is not made yet; type first: clipgen draw world=two" in line
    assert line.endswith("clipgen prep experiment=two_clip && clipgen train stage=clip experiment=two_clip")
    assert not list(tmp_path.rglob("*.tar"))


def test_a_run_is_judged_by_it(clipgen, few, pictures, tiny, tmp_path):
    out = tmp_path / "two"
    outcome = clipgen("run", f"images={pictures}", f"out={out}", "world=two", *tiny)
    assert outcome.status == 0, outcome.error
    metrics = json.loads((out / "metrics.json").read_text())
    for name in ("binding", "swapped", "count", "count_of_3", "held_out.binding", "ceiling.count", "chance.binding"):
        assert 0 <= metrics[f"judge.{name}"] <= 1
    assert 0 <= metrics["clip.zero_shot.binding"] <= 1
    assert "pairs, each colour on its shape" in outcome.said and "pairs with their colours swapped" in outcome.said
    assert "a red circle and a white ring" in outcome.said
    assert "Each colour is on its shape" in (out / "report.html").read_text(encoding="utf-8")

    again = clipgen("evaluate", f"model={out}/model", "world=two", "n=1", f"out={tmp_path / 'm.json'}", "device=cpu")
    assert again.status == 0 and "judge.binding" in json.loads((tmp_path / "m.json").read_text())
