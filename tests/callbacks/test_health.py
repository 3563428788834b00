"""Real trainings that go wrong, and what is said of them."""

import re

import pytest
import torch

from clipgen.callbacks.health import Health, warnings_of
from clipgen.check.tokenizer import OF_QUANTIZERS
from clipgen.config import Config
from clipgen.data.module import ImageData
from clipgen.errors import UserError
from clipgen.tokenizer.adversary import Adversary
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.quantize import FiniteScalar, Gumbel, MovingAverage, NearestCode, SimVQ, quantizer
from clipgen.tokenizer.vqgan import VQGAN

SIZE = 16
SHAPE = dict(
    image_size=SIZE, codebook_size=256, channels=32, channel_multipliers=[1, 1], res_blocks=1,
    z_channels=8, norm_groups=8,
)  # fmt: skip
PLAIN = dict(unit_codes=False, code_dim=64, restart_dead=False)  # as VQ-VAE began


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_images):
    folder = tmp_path_factory.mktemp("pictures")
    make_images(folder, width=SIZE, height=SIZE)
    return folder


def train(folder, stage, make_trainer, save_at=None, steps=20, unit_codes=True, code_dim=8, **changes):
    """What was said, in a training whose windows are of 5 batches."""
    torch.manual_seed(0)
    settings = dict(lr=1e-3, warmup=1, continuous_steps=0, usage_window=5, gan_weight=0.0) | changes
    module = VQGANModule(VQGAN(**SHAPE, unit_codes=unit_codes, code_dim=code_dim), steps, **settings)
    said = []
    callbacks = [Health(stage, 5, module.vqgan.quantizer.remedy, say=said.append)]
    callbacks += [save_at(stage, {10, steps})] if save_at else []
    trainer = make_trainer(*callbacks, limit_val_batches=0)
    failure = None
    try:
        trainer.fit(module, datamodule=ImageData(folder, SIZE, batch_size=4, steps=steps, seed=1))
    except UserError as error:
        failure = str(error)
    return said, failure, module


def settings_in(text: str) -> list[str]:
    return re.findall(r"\b(?:tokenizer|trainer)\.[\w.]*\w", text)


def test_a_codebook_that_collapses(folder, tmp_path, make_trainer):
    said, failure, _ = train(folder, tmp_path, make_trainer, **PLAIN)
    assert failure is None and len(said) == 1  # once, though it persists
    assert "of the codes are in use" in said[0] and "tokenizer.train.restart_dead=true" in said[0]
    assert (tmp_path / "warnings.txt").read_text().count("\n") == 1


def test_a_codebook_that_lives(folder, tmp_path, make_trainer):
    said, failure, _ = train(folder, tmp_path, make_trainer, continuous_steps=2)
    assert (said, failure) == ([], None) and not (tmp_path / "warnings.txt").exists()


def test_a_warning_comes_again_when_it_persists(folder, tmp_path, make_trainer):
    said, _, _ = train(folder, tmp_path, make_trainer, **PLAIN, steps=50)
    assert [re.search(r"batch (\d+)", line).group(1) for line in said] == ["5", "50"]
    assert said[1].endswith("(so in 10 windows)")


def test_a_discriminator_that_wins(folder, tmp_path, make_trainer):
    said, _, _ = train(
        folder, tmp_path, make_trainer, continuous_steps=2, lr=1e-7, gan_weight=0.1, gan_lr=1e-2, steps=40,
        adversary=Adversary(1, 32),
    )  # fmt: skip
    assert len(said) == 1 and "the discriminator wins outright" in said[0] and "tokenizer.train.lecam" in said[0]


def test_a_loss_that_is_not_finite_ends_the_training_and_no_checkpoint_has_it(folder, tmp_path, make_trainer, save_at):
    (tmp_path / "last.ckpt").touch()
    _, failure, module = train(folder, tmp_path, make_trainer, save_at, lr=1e30)
    assert "NaN or infinite" in failure and "\n" not in failure
    assert "tokenizer.train.lr" in failure and f"{tmp_path / 'last.ckpt'} is from before it" in failure
    assert module.batches <= 10 and not list(tmp_path.glob("[0-9]*.ckpt"))


def test_weights_that_are_not_finite_are_not_saved(folder, tmp_path, make_trainer, save_at):
    """The loss of the last batch may still have been a number."""
    _, failure, _ = train(folder, tmp_path, make_trainer, save_at, lr=float("inf"), steps=1)
    assert re.search("at batch 1 weights vqgan.* no checkpoint was saved", failure)
    assert not list(tmp_path.glob("[0-9]*.ckpt"))


def test_a_resumed_training_goes_on_counting(tmp_path):
    row = {"usage": 0.01}
    health = Health(tmp_path, 5, "", say=lambda line: None)
    for batch in (5, 10):
        health.window = [row]
        health._judge(batch, True)
    resumed, said = Health(tmp_path, 5, ""), []
    resumed.say = said.append
    resumed.load_state_dict(health.state_dict())
    for batch in range(15, 55, 5):
        resumed.window = [row]
        resumed._judge(batch, True)
    assert len(said) == 1 and (tmp_path / "warnings.txt").read_text().count("batch ") == 2


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ({"usage": 0.09}, {"usage"}),
        ({"usage": 0.11}, set()),
        ({"image": 1.0}, set()),
        ({"discriminator": 0.9, "logits_real": 0.1, "logits_made": 0.0, "gan_weight": 1.0}, set()),
        ({"discriminator": 0.01, "logits_real": 2.0, "logits_made": -2.0, "gan_weight": 1.0}, {"discriminator"}),
        ({"discriminator": 0.3, "logits_real": 8.0, "logits_made": -3.0, "gan_weight": 1.0}, {"discriminator"}),
        ({"discriminator": 0.9, "logits_real": 0.1, "logits_made": 0.0, "gan_weight": 1e4}, {"gan_weight"}),
    ],
)
def test_each_sign(row, kinds):
    found = warnings_of([row] * 4, NearestCode.remedy)
    assert set(found) == kinds
    for words in found.values():
        assert settings_in(words) and "\n" not in words


def test_a_window_with_few_tokens_is_not_blamed_for_it():
    assert not warnings_of([{"usage": 0.004}], "", reachable=0.02)
    assert warnings_of([{"usage": 0.001}], "", reachable=0.02)


def test_the_settings_that_are_named_exist(folder, tmp_path):
    rows = [{"usage": 0.0, "discriminator": 0.0, "logits_real": 9.0, "logits_made": -9.0, "gan_weight": 1e4}]
    texts = [*warnings_of(rows, "").values(), str(Health(tmp_path, 5, "").not_finite(1, "loss"))]
    assert len(texts) == 4
    texts += [kind.remedy for kind in (NearestCode, MovingAverage, SimVQ, Gumbel, FiniteScalar)]
    for key in {key for text in texts for key in settings_in(text)}:
        value = Config()
        for name in key.split("."):
            value = getattr(value, name)


@pytest.mark.parametrize("kind", ["nearest", "moving_average", "simvq", "gumbel", "fsq"])
def test_a_remedy_names_only_what_the_quantizer_has(kind):
    remedy = quantizer(kind, 4, 16, 4, levels=[4, 4]).remedy
    keys = settings_in(remedy)
    assert keys and set(keys) & set(OF_QUANTIZERS) <= {
        key for key, (kinds, _) in OF_QUANTIZERS.items() if kind in kinds
    }
