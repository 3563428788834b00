"""Real Lightning runs of stage 2 on cached latents: it learns, resumes exactly, and each weight has one optimizer."""

import math

import pytest
import pytorch_lightning as pl
import torch

from clipgen.checkpoint import read_checkpoint, submodule
from clipgen.data.module import LatentData
from clipgen.transformer.model import Transformer
from clipgen.transformer.module import TransformerModule, parameter_groups

STEPS = 40
ARCHITECTURE = dict(
    grid=[2, 3], codebook_size=128, embed_dim=4, width=32, depth=2, heads=2, n_prefix=2, cond_drop_prob=0.2, dropout=0.1
)


def module(**changes) -> TransformerModule:
    torch.manual_seed(0)
    settings = {"steps": STEPS, "warmup": 2, "settings": {"transformer": ARCHITECTURE}}
    return TransformerModule(Transformer(**ARCHITECTURE), torch.full((4,), 0.1), **settings | changes)


def data(folder) -> LatentData:
    return LatentData(folder, batch_size=8, steps=STEPS, seed=1)


class Losses(pl.Callback):
    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.train.append(trainer.callback_metrics["train/loss"].item())

    def on_validation_end(self, trainer, module) -> None:
        self.val.append(trainer.callback_metrics["val/loss"].item())


@pytest.fixture(scope="module")
def unbroken(latent_folder, tmp_path_factory, make_trainer, save_at):
    folder, losses, trained = tmp_path_factory.mktemp("unbroken"), Losses(), module()
    trainer = make_trainer(losses, save_at(folder, {1, 7, 20, STEPS}), val_check_interval=10)
    trainer.fit(trained, datamodule=data(latent_folder))
    return trained, losses, folder, trainer


def test_the_loss_falls(unbroken):
    trained, losses, _, _ = unbroken
    assert trained.batches == len(losses.train) == STEPS
    assert losses.train[0] == pytest.approx(math.log(128), abs=0.01)
    assert sum(losses.train[-5:]) / 5 < 0.8 * losses.train[0]
    assert len(losses.val) == 4


def test_both_optimizers_step_once_a_batch(unbroken):
    _, _, _, trainer = unbroken
    adamw, muon = trainer.optimizers
    assert {int(state["step"]) for state in adamw.state.values()} == {STEPS}
    assert len(muon.state) == 2 * 4
    assert trainer.global_step == 2 * STEPS


@pytest.mark.parametrize("at", [1, 7, 20])
def test_a_resumed_training_ends_bit_for_bit_as_an_unbroken_one(
    unbroken, latent_folder, tmp_path, make_trainer, save_at, at
):
    _, losses, folder, _ = unbroken
    continued, seen = module(), Losses()
    torch.manual_seed(at)  # whatever the state of the random numbers is in the new process
    trainer = make_trainer(seen, save_at(tmp_path, {STEPS}), val_check_interval=10)
    trainer.fit(continued, datamodule=data(latent_folder), ckpt_path=folder / f"{at}.ckpt", weights_only=True)
    assert seen.train == losses.train[at:]
    wanted = read_checkpoint(folder / f"{STEPS}.ckpt", "transformer")
    found = read_checkpoint(tmp_path / f"{STEPS}.ckpt", "transformer")
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], rtol=0, atol=0)
    assert len(found["optimizer_states"]) == 2
    for made, expected in zip(found["optimizer_states"], wanted["optimizer_states"], strict=True):
        assert made["state"]
        torch.testing.assert_close(made["state"], expected["state"], rtol=0, atol=0)


def test_another_seed_is_another_training(unbroken, latent_folder, make_trainer):
    losses = Losses()
    trainer = make_trainer(losses, limit_train_batches=3, limit_val_batches=0)
    trainer.fit(module(seed=1), datamodule=data(latent_folder))
    assert losses.train[1:] != unbroken[1].train[1:3]


def test_a_checkpoint_rebuilds_the_network(unbroken):
    trained, _, folder, _ = unbroken
    checkpoint = read_checkpoint(folder / f"{STEPS}.ckpt", "transformer")
    network = Transformer(**checkpoint["clipgen"]["settings"]["transformer"])
    network.load_state_dict(submodule(checkpoint, "transformer"))
    arguments = torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 4) / 2, torch.ones(1)
    assert torch.equal(network.eval()(*arguments), trained.transformer.eval()(*arguments))


@torch.no_grad()
def test_validation_has_no_noise_of_its_own(unbroken, latent_folder):
    trained, losses, _, _ = unbroken
    loader = data(latent_folder)
    loader.setup("fit")
    batch = loader.val_batches.plain(range(5))
    trained.eval()
    values = {trained.cross_entropy(batch, torch.ones(5)).item() for _ in range(3)}
    assert len(values) == 1
    assert values.pop() == pytest.approx(losses.val[-1], rel=1e-5)


def test_the_groups_hold_each_parameter_once():
    network = Transformer(**ARCHITECTURE)
    groups = parameter_groups(network)
    ids = [id(parameter) for group in groups for parameter in group]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in network.parameters()}


def test_muon_gets_the_matrices_of_the_blocks_and_nothing_else():
    network = Transformer(**ARCHITECTURE)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    matrices, decayed, plain = [{names[id(p)] for p in group} for group in parameter_groups(network)]
    each = ("attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.down.weight")
    assert matrices == {f"blocks.{block}.{name}" for block in range(2) for name in each}
    assert decayed == {"head.weight", "conditioner.project.weight", "conditioner.level.weight"}
    assert {"embed.weight", "place_LD", "conditioner.null_PD", "conditioner.level.bias", "norm.weight"} < plain


def test_weight_decay_spares_embeddings_and_vectors():
    adamw, muon = module(weight_decay=0.3).configure_optimizers()
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    assert [group["weight_decay"] for group in muon.param_groups] == [0.3]
