"""Model folders: what one holds, that it gives the same pixels, and what is said of one that is not whole."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipgen import ClipGen, pretrained
from clipgen.clip.frozen import load_clip
from clipgen.errors import UserError

PROMPTS = ["a red circle", "a blue ring on white", "größe, 赤い円 = 🎈"]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory) -> Path:
    """The pipeline's model folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        ClipGen.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_saving_and_loading_gives_the_same_pixels(pipeline, saved):
    loaded = ClipGen.from_pretrained(saved)
    assert loaded.sampling == pipeline.sampling
    assert np.array_equal(pixels(loaded.generate(PROMPTS, n=2)), pixels(pipeline.generate(PROMPTS, n=2)))


def test_a_saved_folder_can_be_saved_again(saved, tmp_path):
    again = tmp_path / "again"
    ClipGen.from_pretrained(saved).save_pretrained(again)
    for path in saved.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(saved)).read_bytes() == path.read_bytes(), path
    ClipGen.from_pretrained(again).save_pretrained(again)  # in place
    assert ClipGen.from_pretrained(again).generate(["x"], n=1)


def test_the_folder_works_wherever_it_lies(pipeline, saved, tmp_path):
    moved = shutil.copytree(saved, tmp_path / "elsewhere")
    hidden = saved.rename(saved.with_name("hidden"))
    try:
        made = ClipGen.from_pretrained(moved).generate(PROMPTS, n=1)
    finally:
        hidden.rename(saved)
    assert np.array_equal(pixels(made), pixels(pipeline.generate(PROMPTS, n=1)))


@pytest.mark.parametrize("at", ["_copy_clip", "save_weights"])
def test_a_folder_that_was_not_written_to_the_end_is_no_model(pipeline, saved, tmp_path, monkeypatch, at):
    shutil.copytree(saved, tmp_path / "model")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, at, killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError):
        ClipGen.from_pretrained(tmp_path / "model")


def test_what_the_folder_holds(saved):
    names = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert {"config.json", "README.md", "clip/open_clip_config.json"} < names
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".md", ".txt"}
    for name in names:
        content = (saved / name).read_bytes()
        assert not content.startswith((b"\x80", b"PK\x03\x04")), f"{name} is a pickle"
    assert (saved / "README.md").read_text(encoding="utf-8").startswith("---\nlibrary_name: clipgen")


def test_a_clip_from_a_pickle_is_saved_as_safetensors(pipeline, tiny_clip_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    weights = folder / "open_clip_model.safetensors"
    torch.save(load_file(weights), folder / "open_clip_pytorch_model.bin")
    weights.unlink()
    clip = load_clip(f"local-dir:{folder}")
    parts = (pipeline.vqgan, pipeline.transformer, clip, pipeline.statistics, pipeline.sampling, pipeline.settings)
    ClipGen(*parts).save_pretrained(tmp_path / "model")
    assert not list((tmp_path / "model").rglob("*.bin"))
    made = ClipGen.from_pretrained(tmp_path / "model").generate(PROMPTS, n=1)
    assert np.array_equal(pixels(made), pixels(pipeline.generate(PROMPTS, n=1)))


def test_a_folder_that_held_a_model_with_another_clip_has_the_new_one(pipeline, saved, tiny_clip_folder, tmp_path):
    """The weights of the earlier lie under the name that is looked for first."""
    old, folder = (
        Path(shutil.copytree(saved, tmp_path / "model")),
        Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip")),
    )
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.safetensors")
    (old / "clip" / "open_clip_model.safetensors").write_bytes(b"another")
    clip = load_clip(f"local-dir:{folder}")
    parts = (pipeline.vqgan, pipeline.transformer, clip, pipeline.statistics, pipeline.sampling, pipeline.settings)
    ClipGen(*parts).save_pretrained(old)
    assert ClipGen.from_pretrained(old).clip.identity.sha256 == clip.identity.sha256


def test_what_bridges_need_is_stored_with_the_model(bridged, pipeline, tmp_path):
    bridged.save_pretrained(tmp_path)
    loaded = ClipGen.from_pretrained(tmp_path)
    for name in ("whiten", "whiten+knn"):
        wanted = bridged.generate(PROMPTS, n=2, bridge=name)
        assert np.array_equal(pixels(loaded.generate(PROMPTS, n=2, bridge=name)), pixels(wanted))
    assert load_file(tmp_path / "bank.safetensors")["image"].dtype == torch.float16
    pipeline.save_pretrained(tmp_path)
    assert ClipGen.from_pretrained(tmp_path).bank_NE is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("whiten", "needs image_covariance, .*bridge=mean$"), ("knn", "needs a bank .*bridge=mean$"), ("x", "is unknown")],
)
def test_an_older_model_names_the_bridge_that_works(saved, name, message):
    older = ClipGen.from_pretrained(saved)
    with pytest.raises(UserError, match=f"^bridge={name} {message}"):
        older.generate(PROMPTS, bridge=name)
    assert np.array_equal(pixels(older.generate(PROMPTS, bridge="mean")), pixels(older.generate(PROMPTS)))


def test_a_folder_that_is_missing_or_no_model(tmp_path):
    assert "has no config.json" in refused(tmp_path / "absent")
    assert "has no config.json" in refused(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer", "transformer", "statistics"])
def test_weights_that_are_missing_or_broken(copied, name):
    path = copied / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "is not a readable safetensors file" in refused(copied)
    path.write_bytes(b"")
    assert "is not a readable safetensors file" in refused(copied)
    path.unlink()
    assert "does not exist" in refused(copied)


def test_weights_of_another_size(copied):
    path = copied / "transformer.safetensors"
    state = load_file(path)
    save_file({**state, "head.weight": state["head.weight"][:7].clone()}, path)
    assert "does not fit" in refused(copied)


def test_statistics_without_a_mean(copied):
    path = copied / "statistics.safetensors"
    save_file({"image_mean": load_file(path)["image_mean"]}, path)
    assert "has no text_mean" in refused(copied)


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"settings": {}}', '{"settings": {}, "clip": {}}'])
def test_a_broken_config(copied, text):
    (copied / "config.json").write_text(text)
    assert "config.json is not readable" in refused(copied)


def test_a_config_with_a_part_missing_or_unknown(copied):
    config = json.loads((copied / "config.json").read_text())
    tokenizer = config["settings"]["tokenizer"]
    for change in (
        {"settings": {"tokenizer": tokenizer}},
        {"settings": config["settings"] | {"tokenizer": tokenizer | {"colour": 1}}},
    ):
        (copied / "config.json").write_text(json.dumps(config | change))
        assert "config.json is not readable" in refused(copied)
    del config["sampling"]
    (copied / "config.json").write_text(json.dumps(config))
    assert "config.json is not readable" in refused(copied)


def test_a_folder_of_a_later_version(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"format": 2}))
    assert "format 2" in refused(copied)


def test_another_clip_than_it_was_trained_with(copied):
    path = copied / "clip" / "open_clip_model.safetensors"
    state = load_file(path)
    save_file({**state, "text_projection": state["text_projection"] + 1}, path)
    assert "was trained with CLIP" in refused(copied)


def test_a_folder_without_its_clip(copied):
    shutil.rmtree(copied / "clip")
    assert "open_clip_config.json" in refused(copied)
