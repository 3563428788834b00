"""Pictures come when they should, and drawing them leaves the training as it was."""

import errno

import pytest
import torch
from PIL import Image

from clipgen.callbacks.image_grid import ImageGrid
from clipgen.errors import UserError


def picture() -> Image.Image:
    return Image.new("RGB", (8, 8), "red")


def test_a_picture_comes_every_so_many_batches_and_at_the_end(make_trainer, counting, tmp_path):
    make_trainer(ImageGrid(tmp_path / "grids", picture, every=3)).fit(counting(7))
    names = sorted(path.name for path in (tmp_path / "grids").iterdir())
    assert names == ["000003.png", "000006.png", "000007.png", "latest.png"]
    for name in names:
        with Image.open(tmp_path / "grids" / name) as image:
            assert image.size == (8, 8)


def test_the_last_picture_is_drawn_once(make_trainer, counting, tmp_path):
    drawn = []
    grid = ImageGrid(tmp_path, lambda: drawn.append(1) or picture(), every=2)
    make_trainer(grid).fit(counting(4))
    assert len(drawn) == 2 and (tmp_path / "latest.png").read_bytes() == (tmp_path / "000004.png").read_bytes()


def test_it_is_drawn_in_eval_mode_without_gradients_and_training_goes_on(make_trainer, counting, tmp_path):
    modes, module = [], counting(4)
    module.inside = lambda batches: modes.append(module.training)

    def draw():
        assert not module.training and not torch.is_grad_enabled()
        return picture()

    make_trainer(ImageGrid(tmp_path, draw, every=1)).fit(module)
    assert modes == [True] * 4 and module.weight.item() != 0


def test_a_picture_that_cannot_be_drawn_leaves_the_module_in_training_mode(make_trainer, counting, tmp_path):
    module = counting(4)

    def draw():
        raise ZeroDivisionError

    grid = ImageGrid(tmp_path, draw, every=1)
    with pytest.raises(ZeroDivisionError):
        grid.save(module.train())
    assert module.training and not list(tmp_path.glob("*.png"))


def test_a_full_disk_is_one_line_and_leaves_no_half_picture(make_trainer, counting, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clipgen.data.atomic._flush", full)
    with pytest.raises(UserError, match=r"000002\.png: the disk is full"):
        make_trainer(ImageGrid(tmp_path, picture, every=2)).fit(counting(4))
    assert not list(tmp_path.iterdir())
