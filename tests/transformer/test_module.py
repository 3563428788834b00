"""Real Lightning runs of stage 2 on cached latents: it learns, resumes exactly, and each weight has one optimizer."""

import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision

from clipgen.callbacks.ema import EMA
from clipgen.checkpoint import read_checkpoint, submodule
from clipgen.data.module import LatentData
from clipgen.transformer.loss import Reconstruction
from clipgen.transformer.model import Transformer
from clipgen.transformer.module import TransformerModule
from clipgen.transformer.optim import parameter_groups

STEPS = 40
ARCHITECTURE = dict(
    grid=[2, 3], codebook_size=128, embed_dim=4, width=32, depth=2, heads=2, n_prefix=2, cond_drop_prob=0.2, dropout=0.1
)


def module(architecture: dict | None = None, **changes) -> TransformerModule:
    torch.manual_seed(0)
    architecture = ARCHITECTURE | (architecture or {})
    settings = {"steps": STEPS, "warmup": 2, "settings": {"transformer": architecture}}
    return TransformerModule(Transformer(**architecture), torch.full((4,), 0.1), **settings | changes)


def data(folder) -> LatentData:
    return LatentData(folder, batch_size=8, steps=STEPS, seed=1)


class Losses(pl.Callback):
    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.train.append(trainer.callback_metrics["train/loss"].item())

    def on_validation_end(self, trainer, module) -> None:
        self.val.append(trainer.callback_metrics["val/loss"].item())


class Kept(pl.Callback):
    """The gradients of the last batch, by name."""

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


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
    same_checkpoints(folder / f"{STEPS}.ckpt", tmp_path / f"{STEPS}.ckpt", 2)


def same_checkpoints(wanted, found, optimizers: int) -> None:
    wanted, found = read_checkpoint(wanted, "transformer"), read_checkpoint(found, "transformer")
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(found.get("ema"), wanted.get("ema"), rtol=0, atol=0)
    assert len(found["optimizer_states"]) == optimizers
    for made, expected in zip(found["optimizer_states"], wanted["optimizer_states"], strict=True):
        assert made["state"]
        torch.testing.assert_close(made["state"], expected["state"], rtol=0, atol=0)


EVERYTHING = dict(accumulate=2, optimizer="adamw", schedule="cosine", rar=True, aux_weight=0.1, z_loss=1e-4, lr=1e-3)


@pytest.mark.parametrize("gft", [False, True])
def test_so_it_does_with_every_switch_on(latent_folder, tmp_path, make_trainer, save_at, gft):
    def fit(folder, ckpt_path=None):
        trained = module({"gft": gft}, steps=12, **EVERYTHING)
        trainer = make_trainer(EMA("transformer", 0.9), save_at(folder, {7, 12}), limit_val_batches=0)
        loader = LatentData(latent_folder, batch_size=8, steps=12, seed=1)
        trainer.fit(trained, datamodule=loader, ckpt_path=ckpt_path, weights_only=True)

    fit(tmp_path / "whole")  # at batch 7 between the anneal's ends
    torch.manual_seed(9)
    fit(tmp_path / "continued", tmp_path / "whole" / "7.ckpt")
    same_checkpoints(tmp_path / "whole" / "12.ckpt", tmp_path / "continued" / "12.ckpt", 1)
    checkpoint = read_checkpoint(tmp_path / "whole" / "12.ckpt", "transformer")
    averaged, live = submodule(checkpoint, "transformer"), checkpoint["state_dict"]
    assert not torch.equal(averaged["head.weight"], live["transformer.head.weight"])


@pytest.mark.parametrize(
    ("settings", "switches"),
    [
        ({}, {"accumulate": 2}),
        ({}, {"accumulate": 4, "rar": True, "aux_weight": 0.2}),
        ({"gft": True}, {"accumulate": 2}),
        ({}, {"accumulate": 1, "checkpointing": True}),
    ],
)
def test_a_batch_in_parts_or_with_recomputed_blocks_trains_the_same(latent_folder, make_trainer, settings, switches):
    """Of the gradients, as optimizers enlarge rounding; without dropout, whose masks are drawn for each part."""
    settings, switches = settings | {"dropout": 0.0}, dict(switches)
    checkpointing, gradients = switches.pop("checkpointing", False), []
    for changes in (switches | {"accumulate": 1}, switches):
        trained, kept = module(settings, clip_norm=0.0, **changes), Kept()
        torch.nn.init.normal_(trained.transformer.head.weight, std=0.2)
        trained.transformer.checkpointing = checkpointing and bool(gradients)
        make_trainer(kept, limit_train_batches=1, limit_val_batches=0).fit(trained, datamodule=data(latent_folder))
        gradients.append(kept.gradients)
    assert gradients[0]["transformer.blocks.0.attention.qkv.weight"].abs().max() > 1e-4
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_are_cut_to_the_norm_that_is_asked_for(latent_folder, make_trainer, scale):
    """Also where the loss is scaled for float16: fused AdamW takes scaled gradients, and unscales them itself."""
    of_all = []
    for clip_norm in (0.0, 1e-3):
        trained, kept = module({"dropout": 0.0}, clip_norm=clip_norm, optimizer="adamw"), Kept()
        half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        trainer = make_trainer(kept, limit_train_batches=1, limit_val_batches=0, plugins=[half] if scale > 1 else [])
        trainer.fit(trained, datamodule=data(latent_folder))
        of_all.append(torch.cat([gradient.flatten() for gradient in kept.gradients.values()]) / scale)
    whole, cut = of_all
    assert whole.norm() > 0.01 and float(cut.norm()) == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(cut / cut.norm(), whole / whole.norm())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_rises_over_the_warm_up_and_ends_low(latent_folder, make_trainer, optimizer, schedule):
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            rates.append([group["lr"] for each in trainer.optimizers for group in each.param_groups])

    trained = module(optimizer=optimizer, schedule=schedule, warmup=4, lr=0.1, muon_lr=0.2, lr_final=0.1)
    make_trainer(Rates(), limit_val_batches=0).fit(trained, datamodule=data(latent_folder))
    of_adamw = [each[0] for each in rates]
    assert of_adamw[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert of_adamw == [of_adamw[i] for i in range(4)] + sorted(of_adamw[4:], reverse=True)
    assert of_adamw[-1] == pytest.approx(0.01, abs=0.003)
    half = of_adamw[22]  # half of the way down
    assert half == pytest.approx(0.055, abs=1e-6)
    assert of_adamw[10] == pytest.approx(0.085 if schedule == "linear" else 0.0946, abs=0.002)
    if optimizer == "muon":
        assert [each[-1] for each in rates] == pytest.approx([2 * rate for rate in of_adamw])


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
    values = []
    trained.log = lambda name, value, **_: values.append(value.item())
    for _ in range(3):
        trained.validation_step(batch, 0)
    assert len(set(values)) == 1
    assert values[0] == pytest.approx(losses.val[-1], rel=1e-5)


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


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_muon_computes_in_float32_where_all_else_does(make_trainer, precision, dtype):
    trained = module()
    trained.trainer = make_trainer(precision=precision)
    assert trained.configure_optimizers()[1].dtype == dtype


def test_adamw_alone_has_every_parameter_once_and_decays_the_matrices(make_trainer):
    trained = module(optimizer="adamw", weight_decay=0.3, aux_weight=0.1)
    trained.trainer = make_trainer()
    (adamw,) = trained.configure_optimizers()
    decayed, plain = ({id(p) for p in group["params"]} for group in adamw.param_groups)
    assert not decayed & plain and decayed | plain == {id(p) for p in trained.parameters()}
    for name, parameter in trained.named_parameters():
        spared = parameter.ndim < 2 or any(part in name for part in ("embed", "place", "null"))
        assert (id(parameter) in plain) == spared, name


def test_weight_decay_spares_embeddings_and_vectors(make_trainer):
    trained = module(weight_decay=0.3)
    trained.trainer = make_trainer()
    adamw, muon = trained.configure_optimizers()
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    assert [group["weight_decay"] for group in muon.param_groups] == [0.3]


def test_the_auxiliary_head_learns_the_embedding_and_teaches_the_blocks(latent_folder, make_trainer):
    told = []

    class Told(pl.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            told.append(trainer.callback_metrics["train/aux"].item())

    trained, gradients = module(aux_weight=0.5), {}
    make_trainer(Told(), limit_val_batches=0).fit(trained, datamodule=data(latent_folder))
    assert sum(told[-5:]) < 0.5 * sum(told[:5])
    assert not any(name.startswith("aux") for name in trained.transformer.state_dict())

    for weight in (0.0, 0.5):  # at the first batch the head of zeros gives the blocks no gradient of its own
        kept, one = Kept(), module(aux_weight=weight, clip_norm=0.0)
        make_trainer(kept, limit_train_batches=1, limit_val_batches=0).fit(one, datamodule=data(latent_folder))
        gradients[weight] = kept.gradients["transformer.blocks.0.mlp.up.weight"].abs().max()
    assert gradients[0.0] == 0 < gradients[0.5]


def test_the_reconstruction_runs_every_so_often_on_a_share_and_teaches_the_logits(latent_folder, make_trainer):
    asked: list[int] = []
    codes_VE = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))

    def embed(p_RLV: torch.Tensor) -> torch.Tensor:
        asked.append(len(p_RLV))
        return torch.nn.functional.normalize((p_RLV @ codes_VE).mean(1), dim=-1)

    heads = []
    for reconstruction in (None, Reconstruction(embed, 3.0, every=3, share=0.25)):
        trained = module(reconstruction=reconstruction)
        make_trainer(limit_train_batches=7, limit_val_batches=0).fit(trained, datamodule=data(latent_folder))
        heads.append(trained.transformer.head.weight.detach().clone())
    assert asked == [2, 2, 2]  # batches 0, 3 and 6, a quarter of 8 rows
    assert not torch.allclose(*heads)


def test_the_reconstruction_leaves_out_rows_that_did_not_know_their_embedding():
    asked: list[torch.Tensor] = []

    def embed(p_RLV: torch.Tensor) -> torch.Tensor:
        asked.append(p_RLV.argmax(-1))
        return torch.ones(len(p_RLV), 4)

    trained, again = module(), Reconstruction(embed, 1.0, share=0.5)
    code_BL = torch.arange(24).view(4, 6)
    logits_BLV, order_BL = torch.nn.functional.one_hot(code_BL, 128).float(), torch.arange(6).flip(0).expand(4, -1)
    dropped_B = torch.tensor([True, False, True, False])
    assert trained.lost_embedding(again, logits_BLV, torch.randn(4, 4), dropped_B, None) > 0
    trained.lost_embedding(again, logits_BLV, torch.randn(4, 4), dropped_B, order_BL)
    assert torch.equal(asked[0], code_BL[[1, 3]]) and torch.equal(asked[1], code_BL[[1, 3]].flip(1))
    assert trained.lost_embedding(again, logits_BLV, torch.randn(4, 4), torch.ones(4, dtype=torch.bool), None) == 0


def test_guidance_free_training_asks_the_mean_of_the_two_for_the_tokens(latent_folder):
    """beta·conditional + (1 - beta)·null, the null without a gradient; a row without a condition has beta 1."""
    trained = module({"gft": True, "dropout": 0.0, "cond_drop_prob": 0.5})
    torch.nn.init.normal_(trained.transformer.head.weight, std=0.3)
    loader = data(latent_folder)
    loader.setup("fit")
    drawn = trained.draw(loader.train_batches.plain(range(16)))
    dropped_B, beta_B = drawn["dropped_B"], drawn["beta_B"]
    assert 0 < dropped_B.sum() < 16 and (beta_B[dropped_B] == 1).all() and (beta_B[~dropped_B] < 1).all()
    network, inputs = trained.transformer.train(), (drawn["tokens_BL"], drawn["condition_BE"], drawn["level_B"])
    loss, _ = trained.losses(**drawn)
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    conditional = network.outputs(*inputs, beta_B=beta_B, dropped_B=dropped_B)[1]
    null = network.outputs(*inputs, dropped_B=torch.ones(16, dtype=torch.bool))[1].detach()
    mixed = beta_B[:, None, None] * conditional + (1 - beta_B[:, None, None]) * null
    wanted_loss = torch.nn.functional.cross_entropy(mixed.flatten(0, 1), drawn["tokens_BL"].flatten())
    wanted = torch.autograd.grad(wanted_loss, list(network.parameters()), allow_unused=True)
    torch.testing.assert_close(loss, wanted_loss)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_model_with_gft_is_told_beta_and_others_have_no_weight_for_it():
    torch.manual_seed(0)
    network = Transformer(**ARCHITECTURE, gft=True).eval()
    condition_BE, level_B = torch.randn(2, 4), torch.ones(2)
    plain = network.conditioner(condition_BE, level_B)
    assert torch.equal(plain, network.conditioner(condition_BE, level_B, torch.ones(2)))
    assert not torch.allclose(plain, network.conditioner(condition_BE, level_B, torch.full((2,), 0.4)))
    assert Transformer(**ARCHITECTURE).conditioner.beta is None


def test_the_loss_is_the_smoothed_cross_entropy_of_the_tokens():
    trained = module({"dropout": 0.0}, label_smoothing=0.3, z_loss=0.0)
    clip_BE = torch.nn.functional.normalize(torch.randn(8, 4))
    drawn = trained.draw({"tokens": torch.randint(128, (8, 6)), "clip": clip_BE})
    asked = drawn["tokens_BL"], drawn["condition_BE"], drawn["level_B"]
    with torch.no_grad():
        loss, _ = trained.losses(**drawn | {"dropped_B": torch.zeros(8, dtype=torch.bool)})
        trained.transformer.eval()
        logits_BLV = trained.transformer(*asked)
    expected = torch.nn.functional.cross_entropy(logits_BLV.flatten(0, 1), asked[0].flatten(), label_smoothing=0.3)
    torch.testing.assert_close(loss, expected)


def test_the_level_that_is_told_is_the_cosine_of_what_is_shown_with_the_centred_embedding():
    trained = module({"cond_drop_prob": 0.3}, min_level=0.6)
    clip_BE = torch.nn.functional.normalize(torch.randn(4096, 4), dim=1)
    drawn = trained.draw({"tokens": torch.zeros(4096, 6, dtype=torch.long), "clip": clip_BE})
    clean_BE = torch.nn.functional.normalize(clip_BE - 0.1, dim=1)
    torch.testing.assert_close(drawn["clean_BE"], clean_BE)
    torch.testing.assert_close(torch.linalg.vector_norm(drawn["condition_BE"], dim=1), torch.ones(4096))
    torch.testing.assert_close((clean_BE * drawn["condition_BE"]).sum(1), drawn["level_B"])
    low, high = drawn["level_B"].min(), drawn["level_B"].max()
    assert 0.6 <= low < 0.605 and 0.995 < high <= 1 and abs(drawn["level_B"].mean() - 0.8) < 0.01
    assert abs(drawn["dropped_B"].float().mean() - 0.3) < 0.03
    away_BE = drawn["condition_BE"] - clean_BE * drawn["level_B"][:, None]
    assert away_BE.mean(0).norm() < 0.03, "to no side of its own"


@pytest.mark.parametrize(("any_order", "shares"), [(False, [1.0, 0.5, 0.0]), (True, [1.0, 0.75, 0.5])])
def test_random_orders_are_annealed_by_batches(latent_folder, any_order, shares):
    trained = module({"any_order": any_order}, rar=True, steps=400)
    loader = data(latent_folder)
    loader.setup("fit")
    batch = {
        name: value.repeat(40, *[1] * (value.ndim - 1)) for name, value in loader.train_batches.plain(range(25)).items()
    }
    for batches, share in zip((0, 250, 399), shares, strict=True):
        trained.batches = batches
        order_BL = trained.draw(batch).get("order_BL", torch.arange(6).expand(1000, -1))
        random = (order_BL != torch.arange(6)).any(1).float().mean().item()
        assert random == pytest.approx(share, abs=0.06)
