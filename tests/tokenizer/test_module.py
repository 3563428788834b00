"""Real Lightning runs of stage 1 on a few pictures: counting, the discriminator's part, and exact resume."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from clipgen.callbacks.ema import EMA
from clipgen.checkpoint import read_checkpoint, submodule
from clipgen.clip.frozen import load_clip
from clipgen.data.module import ImageData
from clipgen.tokenizer.adversary import Adversary
from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.loss import perceptual_distance
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.vqgan import VQGAN

STEPS = 12
SIZE = 8
ARCHITECTURE = dict(
    image_size=SIZE, codebook_size=24, code_dim=4, channels=32, channel_multipliers=[1, 1], res_blocks=1,
    z_channels=8, norm_groups=8, dropout=0.1,
)  # fmt: skip


def module(**changes) -> VQGANModule:
    torch.manual_seed(0)
    settings = dict(
        steps=STEPS, lr=1e-3, warmup=2, continuous_steps=3, usage_window=2, gan_start=6, adversary=Adversary(1, 8)
    )
    return VQGANModule(VQGAN(**ARCHITECTURE), settings={"tokenizer": ARCHITECTURE}, **settings | changes)


def data(folder, steps=STEPS, workers=0) -> ImageData:
    return ImageData(folder, SIZE, batch_size=6, steps=steps, seed=1, num_workers=workers)


class Watch(pl.Callback):
    """What each batch left: the discriminator's weights and what was logged."""

    def __init__(self):
        self.discriminators, self.logged = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if module.adversary is not None:
            self.discriminators.append(copy.deepcopy(module.adversary.state_dict()))
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.fixture(scope="module")
def unbroken(image_folder, tmp_path_factory, make_trainer, save_at):
    """A whole training with validation, and its checkpoints before, at and after each change of its course."""
    folder, watch, trained = tmp_path_factory.mktemp("unbroken"), Watch(), module()
    before = copy.deepcopy(trained.adversary.state_dict())
    trainer = make_trainer(EMA("vqgan", 0.9), watch, save_at(folder, {2, 3, 4, 6, 7, STEPS}), val_check_interval=4)
    trainer.fit(trained, datamodule=data(image_folder))
    return trained, watch, before, folder, trainer


def test_the_number_of_steps_means_batches(unbroken):
    trained, watch, _, _, trainer = unbroken
    assert trained.batches == len(watch.logged) == STEPS
    autoencoder, discriminator = trainer.optimizers
    conv_in = autoencoder.state[trained.vqgan.encoder.conv_in.weight]
    codebook = autoencoder.state[trained.vqgan.quantizer.codebook]
    assert conv_in["step"] == STEPS
    assert codebook["step"] == STEPS - 3  # it rests during the continuous batches
    assert {int(state["step"]) for state in discriminator.state.values()} == {STEPS - 6}


def test_the_gan_begins_at_gan_start_and_not_before(unbroken):
    _, watch, before, _, _ = unbroken
    for batch, state in enumerate(watch.discriminators):
        same = all(torch.equal(state[name], before[name]) for name in before)
        assert same == (batch < 6), batch
        assert ("train/discriminator" in watch.logged[batch]) == (batch >= 6)
        assert ("train/gan_weight" in watch.logged[batch]) == (batch >= 6)


def test_what_is_logged(unbroken):
    _, watch, _, _, _ = unbroken
    last = watch.logged[-1]
    assert {"train/l1", "lr", "train/usage", "train/perplexity", "train/restarted_codes"} < set(last)
    assert {"val/loss", "val/psnr", "val/usage", "val/perplexity"} < set(last)
    assert last["train/l1"] < watch.logged[0]["train/l1"]
    assert 0 < last["val/usage"] <= 1 <= last["val/perplexity"] <= 24


# around the codebook's start and the GAN's; an epoch is 3 batches
@pytest.mark.parametrize("at, workers", [(2, 0), (3, 0), (4, 0), (6, 0), (7, 0), (4, 2)])
def test_a_resumed_training_ends_bit_for_bit_as_an_unbroken_one(
    unbroken, image_folder, tmp_path, make_trainer, save_at, at, workers
):
    _, _, _, folder, _ = unbroken
    torch.manual_seed(99)
    continued = module()
    torch.manual_seed(at)  # whatever the state of the random numbers is in the new process
    trainer = make_trainer(EMA("vqgan", 0.9), save_at(tmp_path, {STEPS}), val_check_interval=4)
    trainer.fit(
        continued, datamodule=data(image_folder, workers=workers), ckpt_path=folder / f"{at}.ckpt", weights_only=True
    )
    assert continued.batches == STEPS
    wanted = read_checkpoint(folder / f"{STEPS}.ckpt", "vqgan")
    found = read_checkpoint(tmp_path / f"{STEPS}.ckpt", "vqgan")
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(found["ema"], wanted["ema"], rtol=0, atol=0)
    assert len(found["optimizer_states"]) == 2
    for made, expected in zip(found["optimizer_states"], wanted["optimizer_states"], strict=True):
        assert made["state"]
        torch.testing.assert_close(made["state"], expected["state"], rtol=0, atol=0)


def test_the_codebook_is_drawn_after_the_continuous_batches(unbroken):
    _, _, _, folder, _ = unbroken
    books = {at: read_checkpoint(folder / f"{at}.ckpt", "vqgan")["state_dict"] for at in (2, 3, 4)}
    book = {at: state["vqgan.quantizer.codebook"] for at, state in books.items()}
    assert torch.equal(book[2], module().vqgan.quantizer.codebook)
    assert not torch.isclose(book[2], book[3]).all(-1).any()
    assert torch.isclose(book[3], book[4], atol=0.01).all()


def test_a_checkpoint_rebuilds_the_network(unbroken):
    trained, _, _, folder, _ = unbroken
    checkpoint = read_checkpoint(folder / f"{STEPS}.ckpt", "vqgan")
    network = VQGAN(**checkpoint["clipgen"]["settings"]["tokenizer"])
    network.load_state_dict(submodule(checkpoint, "vqgan"))
    live = {name: tensor for name, tensor in trained.vqgan.state_dict().items() if name not in checkpoint["ema"]}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, checkpoint["ema"].get(f"vqgan.{name}", live[name])), name


class Features(nn.Module):
    """A perceptual network of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3).requires_grad_(False)

    def forward(self, image_BCHW):
        return [self.layer(image_BCHW)]


@pytest.mark.parametrize("kind", ["clip", "module"])
def test_the_perceptual_network_is_not_in_the_checkpoint(
    image_folder, tmp_path, tiny_clip_folder, make_trainer, save_at, kind
):
    features = load_clip(f"local-dir:{tiny_clip_folder}").features if kind == "clip" else Features()
    before = copy.deepcopy(features.state_dict()) if kind == "module" else {}
    distance = partial(perceptual_distance, features)
    trained = module(steps=2, perceptual=distance, gan_weight=0.0)
    trainer = make_trainer(save_at(tmp_path, {1, 2}), limit_val_batches=0)
    trainer.fit(trained, datamodule=data(image_folder, 2))
    assert trainer.callback_metrics["train/perceptual"] > 0
    state = torch.load(tmp_path / "1.ckpt", weights_only=True)["state_dict"]
    assert state
    assert {name.split(".")[0] for name in state} == {"vqgan"}

    continued = module(steps=2, perceptual=distance, gan_weight=0.0)
    make_trainer(limit_val_batches=0).fit(continued, datamodule=data(image_folder, 2), ckpt_path=tmp_path / "1.ckpt")
    assert continued.batches == 2
    for name, tensor in before.items():
        assert torch.equal(features.state_dict()[name], tensor)


def test_without_a_gan_there_is_no_discriminator(image_folder, make_trainer):
    for off in ({"gan_weight": 0.0}, {"gan_start": 2}):
        trained = module(steps=2, **off)
        trainer = make_trainer(limit_val_batches=0)
        trainer.fit(trained, datamodule=data(image_folder, 2))
        assert trained.adversary is None
        assert len(trainer.optimizers) == 1
        assert trained.batches == 2


def test_gumbel_s_temperature_falls_from_the_first_to_the_last(image_folder, make_trainer):
    temperatures, steps = [], 4

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            temperatures.append(module.vqgan.quantizer.temperature)

    model = VQGANModule(
        VQGAN(**ARCHITECTURE | KINDS["gumbel"]), steps, lr=1e-3, gan_weight=0.0, continuous_steps=0,
        gumbel_temperature=[0.8, 0.05],
    )  # fmt: skip
    make_trainer(Look(), limit_val_batches=0).fit(model, datamodule=data(image_folder, steps))
    assert temperatures == pytest.approx([0.8, 0.4, 0.2, 0.1])


KINDS = {
    "moving average": dict(quantizer="moving_average", decay=0.9),
    "gumbel": dict(quantizer="gumbel"),
    "fsq": dict(quantizer="fsq", levels=[6, 4]),
    "simvq": dict(quantizer="simvq"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_quantizer_trains_and_resumes_bit_for_bit(image_folder, tmp_path, make_trainer, save_at, kind):
    """In two parts a batch, with LeCam, mistakes in the tokens where there are any to make, and averaged weights."""
    steps, architecture = 8, ARCHITECTURE | KINDS[kind]
    mistakes = None if kind in ("gumbel", "fsq") else Perturbation(0.5, 0.5, 4)

    def trained(*callbacks, **fit) -> VQGANModule:
        torch.manual_seed(0)
        model = VQGANModule(
            VQGAN(**architecture), steps, lr=1e-3, warmup=2, accumulate=2, continuous_steps=0, usage_window=2,
            adversary=Adversary(1, 8, lecam=0.1), gan_start=3, perturbation=mistakes,
            settings={"tokenizer": architecture},
        )  # fmt: skip
        trainer = make_trainer(EMA("vqgan", 0.9), *callbacks, limit_val_batches=0)
        trainer.fit(model, datamodule=data(image_folder, steps), **fit)
        assert model.batches == steps
        return model

    whole = trained(save_at(tmp_path, {4}))
    continued = trained(ckpt_path=tmp_path / "4.ckpt", weights_only=True)
    torch.testing.assert_close(continued.state_dict(), whole.state_dict(), rtol=0, atol=0)
    torch.manual_seed(0)
    before = VQGAN(**architecture).state_dict()
    assert not torch.equal(whole.vqgan.state_dict()["encoder.conv_in.weight"], before["encoder.conv_in.weight"])
