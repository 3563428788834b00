"""Real Lightning runs of the Transformer that enlarges: it learns, resumes exactly, and takes windows that fit."""

import math

import pytest
import pytorch_lightning as pl
import torch

from clipgen.checkpoint import read_checkpoint
from clipgen.data.module import LargeLatentData
from clipgen.errors import UserError
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscale.module import UpscaleModule, windows_at
from clipgen.upscale.sampling import upscale

STEPS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_latents):
    made = tmp_path_factory.mktemp("large")
    make_latents(made, grid=(4, 5), large=True)
    return made


def data(folder) -> LargeLatentData:
    return LargeLatentData(folder, batch_size=8, steps=STEPS, seed=1)


def module(**changes) -> UpscaleModule:
    torch.manual_seed(0)
    model = UpscaleTransformer((2, 3), 128, width=32, depth=2, heads=2, dropout=0.05)
    return UpscaleModule(model, STEPS, warmup=2, seed=1, **changes)


class Losses(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.seen.append(trainer.callback_metrics["train/loss"].item())


def test_it_learns_to_enlarge_and_a_resume_is_bit_for_bit(folder, tmp_path, make_trainer, save_at):
    whole, rest = Losses(), Losses()
    trained = module()
    trainer = make_trainer(whole, save_at(tmp_path, {101, STEPS}), val_check_interval=50)
    trainer.fit(trained, datamodule=data(folder))
    assert whole.seen[0] == pytest.approx(math.log(128), abs=0.01)
    assert whole.seen[-1] < 0.2 * whole.seen[0]
    assert trainer.callback_metrics["val/accuracy"] < 1 and "val/loss" in trainer.callback_metrics  # of other tokens
    shown = data(folder).train_batches.plain(range(8))
    made = upscale(trained.transformer.eval(), shown["tokens"], range(8), top_k=1)
    assert (made == shown["large"]).float().mean() > 0.95
    again = make_trainer(rest, save_at(tmp_path / "again", {STEPS}), val_check_interval=50)
    (tmp_path / "again").mkdir()
    again.fit(module(), datamodule=data(folder), ckpt_path=tmp_path / "101.ckpt", weights_only=True)
    assert rest.seen == whole.seen[101:]
    wanted, found = (read_checkpoint(at / f"{STEPS}.ckpt", "super") for at in (tmp_path, tmp_path / "again"))
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], rtol=0, atol=0)


def test_both_windows_show_the_same_and_lie_everywhere(folder):
    made, loader = module(), data(folder)
    made.transformer.eval()
    seen = set()
    h, w = 4, 5
    places_Bhw = torch.arange(h * w).view(1, h, w).expand(64, -1, -1)
    large_BHW = places_Bhw.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for made.batches in range(3):
        drawn = made.draw({"tokens": places_Bhw, "large": large_BHW})
        small_Bab = drawn["small_BS"].view(-1, 2, 3)
        again_BL = small_Bab.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        assert torch.equal(drawn["large_BL"], again_BL)
        seen |= set(drawn["small_BS"][:, 0].tolist())
    assert seen == {row * w + column for row in range(3) for column in range(3)}
    assert len(loader.train_batches) == 30


def test_a_window_is_cut_at_each_picture_s_own_place():
    token_Bhw = torch.arange(2 * 12).view(2, 3, 4)
    found = windows_at(token_Bhw, torch.tensor([[0, 0], [1, 2]]), (2, 2))
    assert found.tolist() == [[0, 1, 4, 5], [18, 19, 22, 23]]


@pytest.mark.parametrize("held", [True, False])
def test_batches_hold_the_same_crop_at_both_sizes(folder, held):
    loaded = LargeLatentData(folder, 8, STEPS, seed=1, memory_limit_bytes=1 << 20 if held else 0)
    loaded.setup("fit")
    crops = set()
    for number, batch in enumerate(loaded.train_dataloader()):
        small_Bhw, large_BHW = batch["tokens"], batch["large"].clone()
        large_BHW[:, 1::2] -= 1
        assert torch.equal(large_BHW, small_Bhw.repeat_interleave(2, 1).repeat_interleave(2, 2))
        crops |= set(small_Bhw[:, 0, 1].tolist())
        if number == 5:
            break
    assert {0, 1} <= crops
    assert small_Bhw.dtype == large_BHW.dtype == torch.int64


def test_latents_of_one_size_are_refused(latent_folder):
    with pytest.raises(UserError, match=r"no tokens of pictures at twice the size; run `clipgen enc"):
        LargeLatentData(latent_folder, 8, STEPS)
