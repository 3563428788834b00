"""The average is what is validated, shown and taken up by others; the training itself does not notice it."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from clipgen.callbacks.ema import EMA
from clipgen.checkpoint import submodule
from clipgen.data.module import ImageData
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.vqgan import VQGAN

SIZE = 8
SHAPE = dict(
    image_size=SIZE, codebook_size=24, code_dim=4, channels=32, channel_multipliers=[1, 1], res_blocks=1,
    z_channels=8, norm_groups=8,
)  # fmt: skip


def module(steps: int, **changes) -> VQGANModule:
    torch.manual_seed(0)
    settings = dict(lr=3e-3, warmup=1, continuous_steps=2, usage_window=2, gan_weight=0.0)
    return VQGANModule(VQGAN(**SHAPE), steps, **settings | changes)


def fit(make_trainer, folder, trained, *callbacks, **settings) -> pl.Trainer:
    trainer = make_trainer(*callbacks, **settings)
    data = ImageData(folder, SIZE, batch_size=6, steps=trained.steps, seed=1)
    trainer.fit(trained, datamodule=data)
    return trainer


def drawn_codes(trained: VQGANModule) -> dict[str, torch.Tensor]:
    drawn_K = trained.vqgan.quantizer.drawn_K
    return {} if drawn_K is None else {"quantizer.codebook": drawn_K}


class Weights(pl.Callback):
    """The live weights after each batch, what each batch drew, and what each validation ran with."""

    def __init__(self):
        self.live, self.drawn, self.validated = [], [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.live.append(copy.deepcopy(module.vqgan.state_dict()))
        self.drawn.append(drawn_codes(module).get("quantizer.codebook", torch.zeros(0)).clone())

    def on_validation_epoch_end(self, trainer, module):
        self.validated.append(copy.deepcopy(module.vqgan.state_dict()))


def averaged(live: list[dict], first: dict, decay: float, names) -> dict:
    """As the formula has it, in float64."""
    average = {name: first[name].double() for name in names}
    for n, state in enumerate(live, 1):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * average[name] + (1 - d) * state[name].double() for name in names}
    return average


def test_it_is_the_average_that_the_formula_says_and_counts_batches(image_folder, make_trainer):
    trained = module(8, adversary=None)
    first, seen, ema = copy.deepcopy(trained.vqgan.state_dict()), Weights(), EMA("vqgan", 0.5)
    fit(make_trainer, image_folder, trained, ema, seen, limit_val_batches=0)
    names = [name for name, _ in trained.vqgan.named_parameters()]
    assert set(ema.average) == {f"vqgan.{name}" for name in names}
    for name, wanted in averaged(seen.live, first, 0.5, names).items():
        torch.testing.assert_close(ema.average[f"vqgan.{name}"].double(), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ema.average["vqgan.decoder.conv_out.weight"], trained.vqgan.decoder.conv_out.weight)


def test_any_attribute_of_a_module_can_be_averaged(make_trainer, counting):
    class Two(counting):
        def __init__(self, steps):
            super().__init__(steps)
            self.transformer = torch.nn.Linear(1, 1)

    trained = Two(3)
    ema = EMA("transformer", 0.9)
    make_trainer(ema).fit(trained)
    assert set(ema.average) == {"transformer.weight", "transformer.bias"}


def test_the_best_checkpoint_holds_the_weights_that_were_validated(image_folder, tmp_path, make_trainer):
    """Averages far behind the live weights, so that a mistake shows."""
    trained, seen = module(9), Weights()
    best = ModelCheckpoint(tmp_path, "best", monitor="val/loss", mode="min")
    settings = {"val_check_interval": 3, "enable_checkpointing": True}
    trainer = fit(make_trainer, image_folder, trained, EMA("vqgan", 0.999), seen, best, **settings)
    checkpoint = torch.load(best.best_model_path, weights_only=True)
    which = {3: 0, 6: 1, 9: 2}[checkpoint_batches(checkpoint)]
    weights = submodule(checkpoint, "vqgan")
    for name, tensor in seen.validated[which].items():
        assert torch.equal(weights[name], tensor), name
    other = VQGANModule(VQGAN(**SHAPE), 9, lr=1e-3, gan_weight=0.0)
    other.vqgan.load_state_dict(weights)
    other.batches = checkpoint_batches(checkpoint)
    found = make_trainer().validate(other, datamodule=trainer.datamodule, verbose=False)[0]["val/loss"]
    score = float(checkpoint["callbacks"][best.state_key]["best_model_score"])
    assert found == pytest.approx(score, abs=1e-3)  # near-ties between codes
    live = {name: checkpoint["state_dict"][f"vqgan.{name}"] for name in weights}
    assert all(torch.equal(live[name], tensor) for name, tensor in seen.live[3 * which + 2].items())
    assert not torch.allclose(live["decoder.conv_out.weight"], weights["decoder.conv_out.weight"])


def checkpoint_batches(checkpoint) -> int:
    return checkpoint["clipgen"]["batches"]


def test_the_training_is_the_same_with_and_without_it(image_folder, make_trainer):
    alone, averaging = module(6), module(6)
    fit(make_trainer, image_folder, alone, val_check_interval=2)
    ema = EMA("vqgan", 0.99)

    class Draw(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            with ema.weights():
                assert torch.equal(module.vqgan.decoder.conv_out.weight, self.average())

        def average(self):
            return averaging.vqgan.decoder.conv_out.weight

    fit(make_trainer, image_folder, averaging, ema, Draw(), val_check_interval=2)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, averaging.state_dict()[name]), name


def test_within_weights_the_network_has_the_average_and_after_it_its_own(image_folder, make_trainer):
    trained, ema = module(3), EMA("vqgan", 0.9)
    fit(make_trainer, image_folder, trained, ema, limit_val_batches=0)
    live, average = copy.deepcopy(trained.vqgan.state_dict()), copy.deepcopy(ema.average)
    with pytest.raises(ZeroDivisionError), ema.weights():
        for name, parameter in trained.vqgan.named_parameters():
            assert torch.equal(parameter, average[f"vqgan.{name}"])
        raise ZeroDivisionError
    assert all(torch.equal(tensor, live[name]) for name, tensor in trained.vqgan.state_dict().items())
    assert all(torch.equal(tensor, average[name]) for name, tensor in ema.average.items())


def test_a_validation_that_fails_leaves_the_trained_weights(image_folder, make_trainer):
    trained, seen = module(4), Weights()

    def fail(*_):
        assert not torch.equal(trained.vqgan.decoder.conv_out.weight, seen.live[-1]["decoder.conv_out.weight"])
        raise ZeroDivisionError

    trained.validation_step = fail
    with pytest.raises(ZeroDivisionError):
        fit(make_trainer, image_folder, trained, EMA("vqgan", 0.9), seen, val_check_interval=2)
    assert all(torch.equal(tensor, seen.live[-1][name]) for name, tensor in trained.vqgan.state_dict().items())


def test_a_code_drawn_anew_is_averaged_from_there(image_folder, make_trainer):
    """No code is a mixture of one that died and the one in its place."""

    class Codes(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            drawn = drawn_codes(module).get("quantizer.codebook")
            if drawn is not None:
                average, live = ema.average["vqgan.quantizer.codebook"], module.vqgan.quantizer.codebook
                assert torch.equal(average[drawn], live[drawn])
                batches.append((module.batches, int(drawn.sum())))

    batches, trained = [], module(24)
    ema = EMA("vqgan", 0.9, lambda: drawn_codes(trained))
    fit(make_trainer, image_folder, trained, ema, Codes(), limit_val_batches=0)
    assert batches[0] == (2, 24) and 4 in dict(batches)  # the start of the codebook, then codes that died
    assert all(0 < count < 24 and batch % 2 == 0 for batch, count in batches[1:])
    average, live = ema.average["vqgan.quantizer.codebook"], trained.vqgan.quantizer.codebook
    assert not torch.equal(average, live)
