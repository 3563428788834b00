"""Real Lightning runs of the paired arm: it learns text and image, resumes exactly, and parts make a whole."""

import math

import pytest
import pytorch_lightning as pl
import torch

from clipgen.callbacks.ema import EMA
from clipgen.checkpoint import read_checkpoint
from clipgen.data.module import CaptionedLatentData
from clipgen.paired.model import PairedTransformer
from clipgen.paired.module import PairedModule
from clipgen.paired.text import Text

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STEPS = 30


def words(i: int) -> list[str]:
    """Two captions, of different length, that say the tokens of sample i."""
    tens, ones = NUMBERS[i // 10 % 10], NUMBERS[i % 10]
    return [f"{tens} {ones}", f"the number is {tens} {ones}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_latents):
    made = tmp_path_factory.mktemp("captioned")
    make_latents(made, captions=words)
    return made


def data(folder, steps: int = STEPS) -> CaptionedLatentData:
    return CaptionedLatentData(folder, batch_size=8, steps=steps, seed=1)


def module(folder, steps: int = STEPS, architecture: dict | None = None, **changes) -> PairedModule:
    text = Text.train(data(folder).captions(), 100)
    torch.manual_seed(0)
    shape = dict(grid=[2, 3], codebook_size=128, pieces=len(text), text_length=12, width=32, depth=2, heads=2)
    model = PairedTransformer(**shape, **{"dropout": 0.1, "text_drop_prob": 0.2} | (architecture or {}))
    return PairedModule(model, lambda texts: model.layout.prefix(text.encode(texts)), steps, warmup=2, **changes)


class Losses(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.seen.append({name: trainer.callback_metrics[f"train/{name}"].item() for name in ("loss", "image", "text")})


@pytest.mark.parametrize("sparse", [{}, {"window": 2, "pivots": 2}])
def test_both_losses_fall_and_a_resume_is_bit_for_bit(folder, tmp_path, make_trainer, save_at, sparse):
    whole, ema = Losses(), EMA("transformer", 0.9)
    trained = module(folder, architecture=sparse)
    trainer = make_trainer(whole, ema, save_at(tmp_path, {11, STEPS}), val_check_interval=10)
    trainer.fit(trained, datamodule=data(folder))
    assert whole.seen[0]["image"] == pytest.approx(math.log(128), abs=0.01)
    for name in ("image", "text"):
        assert whole.seen[-1][name] < 0.8 * whole.seen[0][name]
    assert {"val/loss", "val/text"} <= set(trainer.callback_metrics)
    torch.manual_seed(5)
    continued, rest = module(folder, architecture=sparse), Losses()
    (tmp_path / "again").mkdir()
    again = make_trainer(rest, EMA("transformer", 0.9), save_at(tmp_path / "again", {STEPS}), val_check_interval=10)
    again.fit(continued, datamodule=data(folder), ckpt_path=tmp_path / "11.ckpt", weights_only=True)
    assert rest.seen == whole.seen[11:]
    wanted, found = (read_checkpoint(at / f"{STEPS}.ckpt", "paired") for at in (tmp_path, tmp_path / "again"))
    for part in ("state_dict", "ema"):
        torch.testing.assert_close(found[part], wanted[part], rtol=0, atol=0)


def test_with_no_text_loss_the_text_is_not_learnt(folder, make_trainer):
    seen = Losses()
    trained = module(folder, txt_loss_scale=0.0)
    make_trainer(seen, limit_val_batches=0).fit(trained, datamodule=data(folder))
    assert seen.seen[-1]["loss"] == pytest.approx(seen.seen[-1]["image"], rel=1e-5)
    assert seen.seen[-1]["text"] > 0.95 * seen.seen[0]["text"]
    assert seen.seen[-1]["image"] < 0.8 * seen.seen[0]["image"]


@pytest.mark.parametrize("sparse", [{}, {"window": 2, "pivots": 2}])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(folder, sparse):
    batch = next(iter(data(folder).train_dataloader()))
    grads = []
    for parts in (1, 4):
        made = module(folder, architecture={"dropout": 0.0} | sparse)
        torch.nn.init.normal_(made.transformer.head.weight, std=0.02)
        drawn = made.draw(batch)
        assert drawn["dropped_B"].any()
        for part in zip(*(value.chunk(parts) for value in drawn.values()), strict=True):
            (made.losses(**dict(zip(drawn, part, strict=True)))[0] / parts).backward()
        grads.append({name: p.grad for name, p in made.named_parameters()})
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-3)


def test_a_row_without_its_text_is_not_trained_on_text(folder):
    made = module(folder, architecture={"text_drop_prob": 1.0})
    drawn = made.draw(next(iter(data(folder).train_dataloader())))
    assert (drawn["text_BP"] == made.encode([""])).all()
    loss, logged = made.losses(**drawn)
    assert logged["text"] == 0 and loss.item() == pytest.approx(logged["image"].item())
