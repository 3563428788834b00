"""A training that diverges is stopped, and leaves the checkpoint of before."""

import pytest
import torch

from clipgen.callbacks.finite import Finite
from clipgen.errors import UserError


@pytest.mark.parametrize(("at", "seen"), [(13, "15 weights"), (16, "20 train/loss"), (29, "30 train/loss")])
def test_a_loss_that_is_not_finite_ends_the_training_and_no_checkpoint_has_it(
    counting, make_trainer, save_at, tmp_path, at, seen
):
    def inside(batches: int) -> None:
        if batches == at:
            module.weight.data.fill_(torch.nan)

    module = counting(30, inside)
    trainer = make_trainer(Finite(tmp_path, "some.lr"), save_at(tmp_path, {10, 15}), limit_val_batches=0)
    with pytest.raises(UserError, match=rf"at batch {seen}.* is NaN or infinite.*lower some\.lr, or take"):
        trainer.fit(module)
    saved = [torch.load(path, weights_only=True)["state_dict"]["weight"] for path in tmp_path.glob("*.ckpt")]
    assert saved and all(torch.isfinite(weight).all() for weight in saved)


def test_one_that_is_finite_goes_on(counting, make_trainer, tmp_path):
    module = counting(30)
    make_trainer(Finite(tmp_path, "some.lr"), limit_val_batches=0).fit(module)
    assert module.batches == 30
