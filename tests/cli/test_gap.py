"""`clipgen gap` on the latents of a tiny run."""

import json

import numpy as np
import pytest
from PIL import Image

from clipgen.data.sample import decode_npy
from clipgen.data.shards import ShardSet


@pytest.fixture(scope="module")
def made(clipgen, run_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("gap")
    outcome = clipgen("gap", f"latents={run_folder / 'latents'}", f"out={out}", "device=cpu", "bank=20")
    assert outcome.status == 0, outcome.error
    return out, outcome.said


def test_it_prints_and_draws_the_gap(made):
    out, said = made
    facts = json.loads((out / "gap.json").read_text())
    assert f"{facts['centroid_distance']:.3f} apart" in said
    for name in ("none", "mean", "mean_scale", "whiten", "knn", "whiten+knn"):
        assert f"\n{name} " in said and facts["bridges"][name]["centroid_distance"] >= 0
    assert {"spectrum", "effective_dimension", "mean_share"} <= facts["image"].keys() & facts["text"].keys()
    with Image.open(out / "gap.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 10
    assert said.rstrip().endswith("gap.png") and facts["texts_from"] == "captions.txt of the CLIP"


def test_images_with_captions_are_measured_with_their_own(clipgen, captioned, tmp_path):
    outcome = clipgen("gap", f"latents={captioned / 'latents'}", f"out={tmp_path}", "device=cpu", "bank=20")
    assert outcome.status == 0, outcome.error
    facts = json.loads((tmp_path / "gap.json").read_text())
    val = ShardSet(captioned / "latents", "val")
    own = [sample for sample in val if "text_clip.npy" in sample]
    assert 0 < len(own) < len(val), "some have none"
    rows = [(decode_npy(each["clip.npy"])[0], decode_npy(each["text_clip.npy"])[0]) for each in own]
    wanted = np.mean([np.dot(*(row.astype(float) for row in pair)) for pair in rows])
    assert facts["pairs"]["images"] == len(own) and facts["pairs"]["cosine"] == pytest.approx(wanted, abs=1e-4)
    assert f"cosine {wanted:.3f}, centred " in outcome.said and "pair recall@1" in outcome.said


def test_knn_is_left_out_and_said_so_where_the_images_shown_are_its_bank(clipgen, pictures, encode, tmp_path):
    (tmp_path / "images").symlink_to(pictures)
    encode(tmp_path, prep=("prep.val_fraction=0",))
    outcome = clipgen("gap", f"latents={tmp_path / 'latents'}", f"out={tmp_path / 'gap'}", "device=cpu")
    assert outcome.status == 0, outcome.error
    assert "knn is left out: the images shown are the training images" in outcome.said
    assert "knn" not in json.loads((tmp_path / "gap" / "gap.json").read_text())["bridges"]


def test_texts_from_a_file(clipgen, run_folder, tmp_path):
    latents, out = f"latents={run_folder / 'latents'}", f"out={tmp_path}"
    (tmp_path / "captions.txt").write_text("a dog\na cat\na house by the sea\n")
    assert clipgen("gap", latents, out, f"captions={tmp_path / 'captions.txt'}").status == 0
    assert json.loads((tmp_path / "gap.json").read_text())["texts"] == 3
    (tmp_path / "templates.txt").write_text("{}\n")
    assert clipgen("gap", latents, out, f"templates={tmp_path / 'templates.txt'}").status == 0
    assert json.loads((tmp_path / "gap.json").read_text())["texts"] > 100


def test_bridges_are_measured_with_what_a_model_of_these_latents_is_stored_with(clipgen, pictures, encode, tmp_path):
    (tmp_path / "images").symlink_to(pictures)
    (tmp_path / "own.txt").write_text("a dog\na cat\na house by the sea\na boat\n")
    encode(tmp_path, encode=(f"clip.captions={tmp_path / 'own.txt'}",))
    latents = f"latents={tmp_path / 'latents'}"
    found = []
    for words in ((), (f"captions={tmp_path / 'own.txt'}",)):
        assert clipgen("gap", latents, f"out={tmp_path / 'gap'}", "device=cpu", "bank=0", *words).status == 0
        found.append(json.loads((tmp_path / "gap" / "gap.json").read_text()))
    stored, given = found
    assert stored["texts"] == 4 and stored["texts_from"] == str(tmp_path / "own.txt")
    assert stored["bridges"]["whiten"] == pytest.approx(given["bridges"]["whiten"], abs=1e-3)


def test_a_bank_of_nothing_is_told(clipgen, run_folder, tmp_path):
    outcome = clipgen("gap", f"latents={run_folder / 'latents'}", f"out={tmp_path}", "device=cpu", "bank=0")
    assert outcome.status == 0 and "knn is left out: bank=0" in outcome.said


def test_a_caption_beyond_the_context_is_cut_and_told(clipgen, run_folder, tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\na cat and " + "a very long tail, " * 40 + "\n")
    outcome = clipgen(
        "gap", f"latents={run_folder / 'latents'}", f"out={tmp_path}", f"captions={tmp_path / 'captions.txt'}"
    )
    assert outcome.status == 0 and outcome.error.count("is longer than the context of this CLIP") == 1


def test_what_it_refuses(clipgen, one_line, run_folder, tmp_path):
    latents = f"latents={run_folder / 'latents'}"
    (tmp_path / "templates.txt").write_text("a photo\n")
    assert "without {}" in one_line(clipgen("gap", latents, f"templates={tmp_path / 'templates.txt'}"))
    assert "bank=-1; take at least 0" in one_line(clipgen("gap", latents, "bank=-1"))
    assert "both given" in one_line(clipgen("gap", latents, "captions=a", "templates=b"))
    assert "captions=absent cannot be read" in one_line(clipgen("gap", latents, "captions=absent"))
    assert "latents" in one_line(clipgen("gap"))
    assert "absent" in one_line(clipgen("gap", "latents=absent"))
