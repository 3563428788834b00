"""Ctrl-C falls between two batches, and what was trained is there to be continued."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from clipgen.callbacks.interrupt import Interrupted, SaveOnInterrupt


@pytest.fixture(autouse=True)
def handlers_come_back():
    """Whatever happens, what Ctrl-C did before the training it does after it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_batch_stops_after_it(make_trainer, counting, tmp_path, number):
    module = counting(6, lambda batches: signal.raise_signal(number) if batches == 2 else None)
    with pytest.raises(Interrupted, match="stopped after batch 3 of 6"):
        make_trainer(SaveOnInterrupt(tmp_path / "last.ckpt")).fit(module)
    assert module.batches == 3
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["batches"] == 3 and torch.equal(checkpoint["state_dict"]["weight"], module.weight)


def test_what_is_continued_ends_like_an_unbroken_training(make_trainer, counting, tmp_path):
    unbroken = counting(6)
    make_trainer().fit(unbroken)
    with pytest.raises(Interrupted):
        stopped = counting(6, lambda batches: signal.raise_signal(signal.SIGINT) if batches == 3 else None)
        make_trainer(SaveOnInterrupt(tmp_path / "last.ckpt")).fit(stopped)

    class Rest(counting):
        def train_dataloader(self):
            return DataLoader(torch.arange(4.0 * 4, 4.0 * 6), batch_size=4)

    rest = Rest(6)
    rest.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    make_trainer(SaveOnInterrupt(tmp_path / "last.ckpt")).fit(rest)
    assert torch.equal(rest.weight, unbroken.weight)


def test_without_a_signal_nothing_is_saved_and_the_handlers_come_back(make_trainer, counting, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    inside = []
    module = counting(2, lambda batches: inside.append(signal.getsignal(signal.SIGINT)))
    make_trainer(SaveOnInterrupt(tmp_path / "last.ckpt")).fit(module)
    assert signal.getsignal(signal.SIGINT) is handler and handler not in inside
    assert not list(tmp_path.iterdir())


def test_without_validation_it_is_saved_every_so_many_batches(make_trainer, counting, tmp_path):
    path, seen = tmp_path / "last.ckpt", []

    def look(batches):
        seen.append(torch.load(path, weights_only=True)["batches"] if path.exists() else None)

    make_trainer(SaveOnInterrupt(path, every=2)).fit(counting(5, look))
    assert seen == [None, None, 2, 2, 4]


def test_the_handlers_come_back_after_an_error_too(make_trainer, counting, tmp_path):
    def fail(batches):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_trainer(SaveOnInterrupt(tmp_path / "last.ckpt")).fit(counting(2, fail))


TWICE = """
import signal, time
from clipgen.callbacks.interrupt import SaveOnInterrupt
asked = SaveOnInterrupt("never.ckpt")
asked.on_train_start(None, None)
signal.raise_signal(signal.SIGINT)
print("once", flush=True)
signal.raise_signal(signal.SIGINT)
print("twice", flush=True)
"""


def test_a_second_signal_kills(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout == "once\n" and done.returncode == -signal.SIGINT and not list(tmp_path.iterdir())
