"""A contact sheet is one file that shows the samples, their keys and words, whatever these hold."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from clipgen.data.manifest import Manifest
from clipgen.data.shards import TarIndex, write_shard
from clipgen.errors import UserError
from data_prep.browse import CELL, browse


def black(tokens_Bhw: torch.Tensor) -> torch.Tensor:
    return torch.full((len(tokens_Bhw), 3, 8, 8), -1.0)


@pytest.fixture
def described(make_latents, tmp_path):
    """Latents whose manifest says what `clipgen encode` says."""
    manifest = make_latents(tmp_path / "latents", n_train=20)
    manifest.made_by |= {"tokenizer": {"codebook_size": 64}, "clip": {"model": "tiny"}, "encode": {"crops": 1}}
    manifest.save(tmp_path / "latents")
    return tmp_path / "latents"


def pictures_of(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_page_shows_the_pictures_themselves_and_needs_no_other_file(image_folder, tmp_path):
    assert browse(image_folder, tmp_path / "sheet.html", n=5) == 5
    page = (tmp_path / "sheet.html").read_text()
    pictures = pictures_of(page)
    assert [int(picture[0, 0, 0]) for picture in pictures] == [0, 4, 9, 14, 19]  # conftest: red is the number
    assert pictures[0].shape == (10, 12, 3)
    assert "000000014" in page and "14.png" in page and "images: 20 in train, 5 in val" in page
    assert not re.search(r'https?://|(src|href)="(?!data:)', page)


def test_latents_stand_beside_their_originals(described, image_folder, tmp_path):
    browse(described, tmp_path / "sheet.html", image_folder, black, n=3)
    pictures = pictures_of((tmp_path / "sheet.html").read_text())
    assert len(pictures) == 6 and all(picture.shape == (8, 8, 3) for picture in pictures)
    assert [int(picture.max()) for picture in pictures[1::2]] == [0, 0, 0]
    assert [int(picture[0, 0, 0]) for picture in pictures[::2]] == [0, 9, 19]


def test_a_png_holds_the_same(described, image_folder, tmp_path):
    browse(described, tmp_path / "sheet.png", image_folder, black, n=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    middle = 40 + CELL // 2
    assert sheet[middle, 4 + CELL // 4].tolist() == [0, 255, 0]  # the original's left half
    assert sheet[middle, 4 + CELL + 4 + CELL // 4].tolist() == [0, 0, 0]


def test_captions_cannot_break_out_of_the_page(make_images, tmp_path):
    manifest = make_images(tmp_path, n_train=1, n_val=0)
    from clipgen.data.shards import TarIndex, write_shard

    (sample,) = TarIndex(tmp_path / "train-000000.tar")
    manifest.shards[0] = write_shard(tmp_path / "train-000000.tar", [sample | {"txt": b'"><script>alert(1)</script>'}])
    manifest.save(tmp_path)
    browse(tmp_path, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    browse(tmp_path, tmp_path / "sheet.png")


def test_what_cannot_be_shown_is_told(described, image_folder, tmp_path):
    with pytest.raises(UserError, match=r"out=.*sheet\.jpg ends neither"):
        browse(image_folder, tmp_path / "sheet.jpg")
    with pytest.raises(UserError, match="no sample of split=test; take train or val"):
        browse(image_folder, tmp_path / "sheet.png", split="test")
    manifest = Manifest.load(described)
    manifest.facts["sources"] = {"train-000000.tar": "0" * 64}
    manifest.save(described)
    with pytest.raises(UserError, match=r"train-000000\.tar was made of another"):
        browse(described, tmp_path / "sheet.png", image_folder, black)
    assert not list(tmp_path.glob("sheet*"))


def test_a_name_that_is_no_unicode_is_shown_without_harm(make_images, tmp_path):
    make_images(tmp_path / "images", n_train=2)
    shard = tmp_path / "images" / "train-000000.tar"
    samples = [sample | {"json": b'{"source": "caf\\udce9\\u202e.png"}'} for sample in TarIndex(shard)]
    manifest = Manifest.load(tmp_path / "images")
    manifest.shards[0] = write_shard(shard, samples)
    manifest.save(tmp_path / "images")
    browse(tmp_path / "images", tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "caf" in page and "\u202e" not in page
