"""One progress bar a stage, with its loss; validation has none of its own."""

from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import convert_inf
from tqdm import tqdm


class Progress(TQDMProgressBar):
    """Lightning's bar under the stage's own name."""

    def __init__(self, stage: str):
        super().__init__(refresh_rate=10)
        self.stage = stage

    def on_train_start(self, trainer, *_) -> None:
        """A training that continues inside an epoch has no start of one, where Lightning counts and names its bar."""
        super().on_train_start(trainer, *_)
        self.train_progress_bar.total = convert_inf(self.total_train_batches)
        self.train_progress_bar.initial = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        self.train_progress_bar.set_description(f"training {self.stage}")

    def on_train_epoch_start(self, trainer, *_) -> None:
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description(f"training {self.stage}")

    def init_validation_tqdm(self) -> tqdm:
        return tqdm(disable=True)

    def get_metrics(self, trainer, module) -> dict:
        return {name: value for name, value in super().get_metrics(trainer, module).items() if name != "v_num"}
