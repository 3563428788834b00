"""Images a second are those of the training, without what happens between batches."""

import time

import pytorch_lightning as pl

from clipgen.callbacks.throughput import Throughput


class Logged(pl.Callback):
    """What `images_per_second` was after each batch."""

    def __init__(self):
        self.values: dict[int, float] = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if "images_per_second" in trainer.callback_metrics:
            self.values.setdefault(module.batches, float(trainer.callback_metrics["images_per_second"]))


def rate(make_trainer, counting, steps: int, every: int, inside=None, **settings) -> Logged:
    logged = Logged()
    make_trainer(Throughput(4, every), logged, **settings).fit(counting(steps, inside))
    return logged


def test_it_is_logged_every_so_many_batches(make_trainer, counting):
    logged = rate(make_trainer, counting, 5, every=2)
    assert min(logged.values) == 2 and len(set(logged.values.values())) == 2
    assert rate(make_trainer, counting, 3, every=4).values == {}


def test_it_is_images_a_second(make_trainer, counting):
    logged = rate(make_trainer, counting, 4, every=4, inside=lambda batches: time.sleep(0.05))
    assert 4 / 0.05 * 0.3 < logged.values[4] <= 4 / 0.05


def test_what_happens_between_batches_is_left_out(make_trainer, counting):
    class Slow(counting):
        def validation_step(self, batch, _):
            time.sleep(0.3)

    logged = Logged()
    make_trainer(Throughput(4, 4), logged, val_check_interval=1).fit(Slow(4, lambda batches: time.sleep(0.01)))
    assert logged.values[4] > 4 / 0.1  # with validation it would be under 4 / 0.6


def test_each_report_is_of_its_own_batches(make_trainer, counting):
    logged = rate(make_trainer, counting, 4, every=2, inside=lambda batches: time.sleep(0.1 if batches < 2 else 0.01))
    assert logged.values[2] <= 4 / 0.1 < logged.values[4] <= 4 / 0.01
