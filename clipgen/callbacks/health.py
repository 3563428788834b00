"""Signs that a tokenizer's training collapses, each in words that say what to change."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from torch import Tensor

from clipgen.callbacks.finite import READ_EVERY, Finite
from clipgen.data.atomic import replacing

LEAST_USAGE = 0.1  # of the codes that a window could have used
LEAST_HINGE = 0.05  # the discriminator's loss: 1 when it knows nothing, 0 when it is never in doubt
WIDEST_LOGITS = 10.0  # between real and made pictures; hinge asks for 2
BOUND = 1e4  # of the adaptive weight
RATES = "tokenizer.train.lr (with the GAN on tokenizer.train.gan_lr too)"


class Health(Finite):
    """Reads what the module `logged` of each batch, and judges it over windows of `every` batches.

    A warning is said when it first applies, and again after 10, 100, … windows; `FOLDER/warnings.txt` keeps them all.
    Any logged number that is NaN or infinite ends the training, as by `Finite`. `reachable`
    is the share of the codebook that a window has tokens for, `remedy` what the quantizer has against a collapse.
    """

    def __init__(
        self, folder: Path, every: int, remedy: str, reachable: float = 1.0, say: Callable[[str], None] = print
    ):
        super().__init__(folder, RATES)
        self.every, self.remedy, self.reachable, self.say = every, remedy, reachable, say
        self.unread: list[tuple[int, dict[str, Tensor | float]]] = []
        self.window: list[dict[str, float]] = []
        self.windows: dict[str, int] = {}  # in which each warning applied
        self.lines: list[str] = []

    def state_dict(self) -> dict:
        return {"windows": self.windows, "lines": self.lines}

    def load_state_dict(self, state: dict) -> None:
        self.windows, self.lines = state["windows"], state["lines"]

    def on_train_start(self, trainer, module) -> None:
        if self.lines and trainer.is_global_zero:
            self._write()  # without those that came after the checkpoint

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.unread.append((module.batches, module.logged))
        judge = module.batches % self.every == 0 or module.batches == module.steps
        if judge or module.batches % READ_EVERY == 0:
            self._read()
        if judge:
            self._judge(module.batches, trainer.is_global_zero)

    def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
        self._read()
        super().on_save_checkpoint(trainer, module, checkpoint)

    def _read(self) -> None:
        """The numbers of the batches since the last time."""
        read = [(batch, {name: float(value) for name, value in logged.items()}) for batch, logged in self.unread]
        self.unread.clear()
        bad = [(batch, name) for batch, found in read for name, value in found.items() if not math.isfinite(value)]
        if bad:  # on all ranks, as what is logged is a mean over them
            batch, name = bad[0]
            raise self.not_finite(batch, f"train/{name}")
        self.window += [found for _, found in read]

    def _judge(self, batch: int, write: bool) -> None:
        for kind, words in warnings_of(self.window, self.remedy, self.reachable).items():
            self.windows[kind] = count = self.windows.get(kind, 0) + 1
            if count in (10**power for power in range(9)):
                line = f"batch {batch}: {words}" + (f" (so in {count} windows)" if count > 1 else "")
                self.lines.append(line)
                if write:
                    self.say(f"{self.folder.name}: warning: {line}")
                    self._write()
        self.window.clear()

    def _write(self) -> None:
        with replacing(self.folder / "warnings.txt") as path:
            path.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")


def warnings_of(window: Sequence[Mapping[str, float]], remedy: str, reachable: float = 1.0) -> dict[str, str]:
    """What a window warns of, from what each of its batches logged: kind → words with what to change."""
    found = {}
    usage = [row["usage"] for row in window if "usage" in row]
    if usage and usage[-1] < LEAST_USAGE * reachable:
        found["usage"] = f"only {usage[-1]:.2%} of the codes are in use: the codebook collapses; take {remedy}"
    gan = [row for row in window if "discriminator" in row]
    if len(gan) <= len(window) // 2:
        return found
    loss, real, made = (mean(row[name] for row in gan) for name in ("discriminator", "logits_real", "logits_made"))
    if loss < LEAST_HINGE or real - made > WIDEST_LOGITS:
        found["discriminator"] = (
            f"the discriminator wins outright (loss {loss:.3f}, logits {real:.1f} for pictures and {made:.1f} for "
            "reconstructions), and teaches little; lower tokenizer.train.gan_lr, raise tokenizer.train.gan_start, "
            "or take tokenizer.train.lecam=0.001"
        )
    if mean(row["gan_weight"] >= 0.99 * BOUND for row in gan) > 0.5:
        found["gan_weight"] = (
            f"the adaptive weight of the GAN is at its bound of {BOUND:.0f}: the discriminator gives the decoder no "
            "gradient; lower tokenizer.train.gan_lr or tokenizer.train.gan_weight, or raise tokenizer.train.gan_start"
        )
    return found
