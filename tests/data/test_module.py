"""Real Lightning runs: a killed and continued training sees just what an unbroken one sees."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from clipgen.data import module
from clipgen.data.module import ImageData, LatentData
from clipgen.data.shards import shard_name
from clipgen.errors import UserError

STEPS = 17  # over 4 epochs of 4 batches: a checkpoint falls inside an epoch and on its border


class Automatic(pl.LightningModule):
    """One optimizer, stepped by Lightning."""

    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches, self.stop_at = 0, stop_at
        self.seen: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch, batch_idx):
        if self.batches == self.stop_at:
            raise KeyboardInterrupt  # Lightning saves nothing more, as if it were killed
        assert batch_idx == self.batches
        self.seen.append(batch["tokens"][:, :2].flatten().tolist())  # which samples, and which of their crops
        self.batches += 1
        return self.loss(batch)

    def loss(self, batch):
        return (self.weight - batch["clip"].mean()).square().mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(len(batch["tokens"]))
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["batches"] = self.batches

    def on_load_checkpoint(self, checkpoint):
        self.batches = checkpoint["batches"]


class Manual(Automatic):
    """Two optimizers, stepped by hand, as a GAN does: Lightning counts two steps a batch."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(loss, retain_graph=True)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)]


N_OPTIMIZERS = {Automatic: 1, Manual: 2}


def fit(model, data, folder, every: int | None, checkpoint=None, validate_every: int = 6):
    save = ModelCheckpoint(
        folder,
        filename="{step}",
        save_top_k=-1,
        every_n_train_steps=every and every * N_OPTIMIZERS[type(model)],  # Lightning means optimizer steps
        save_on_train_epoch_end=every is None,
    )
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[save],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=validate_every,
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return trainer


def latent_data(folder, num_workers=0, **changes):
    return LatentData(folder, **dict(batch_size=7, steps=STEPS, seed=3, num_workers=num_workers) | changes)


def checkpoint_at(folder, batch: int, model_class) -> Path:
    return folder / f"step={batch * N_OPTIMIZERS[model_class]}.ckpt"


@pytest.fixture(scope="module")
def unbroken(latent_folder, tmp_path_factory):
    """An unbroken training, and its checkpoint after every batch."""
    models = {}
    for model_class in N_OPTIMIZERS:
        folder, model = tmp_path_factory.mktemp("unbroken"), model_class()
        fit(model, latent_data(latent_folder), folder, every=1)
        models[model_class] = model, folder
    return models


@pytest.mark.parametrize("model_class", [Automatic, Manual])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("at", [4, 5, 6])  # the border of an epoch, inside one, at a validation
def test_a_killed_training_goes_on_with_the_very_next_batch(
    latent_folder, tmp_path, unbroken, model_class, num_workers, at
):
    expected, _ = unbroken[model_class]
    killed = model_class(stop_at=at + 1)  # one batch is trained that no checkpoint has
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(killed, latent_data(latent_folder, num_workers), tmp_path, every=at)
    assert killed.seen == expected.seen[: at + 1]

    continued = model_class()
    checkpoint = checkpoint_at(tmp_path, at, model_class)
    trainer = fit(continued, latent_data(latent_folder, num_workers), tmp_path, at, checkpoint)
    assert continued.seen == expected.seen[at:]
    assert continued.batches == STEPS
    assert trainer.global_step == STEPS * N_OPTIMIZERS[model_class]
    assert torch.equal(continued.weight, expected.weight)


@pytest.mark.parametrize("model_class", [Automatic, Manual])
def test_every_checkpoint_leads_to_the_same_end(latent_folder, tmp_path, unbroken, model_class):
    expected, folder = unbroken[model_class]
    assert len(expected.seen) == expected.batches == STEPS
    for at in (1, 11, 12, 16, STEPS):
        continued = model_class()
        fit(continued, latent_data(latent_folder), tmp_path, STEPS, checkpoint_at(folder, at, model_class))
        assert continued.seen == expected.seen[at:], at


@pytest.mark.parametrize("model_class", [Automatic, Manual])
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("steps", [5, 6])  # 6 is validated after the last batch
def test_a_finished_training_goes_on_when_steps_is_raised(
    latent_folder, tmp_path, unbroken, model_class, at_end, steps
):
    every = None if at_end else steps
    fit(model_class(), latent_data(latent_folder, steps=steps), tmp_path, every, validate_every=3)
    checkpoint = checkpoint_at(tmp_path, steps, model_class)
    longer = model_class()
    fit(longer, latent_data(latent_folder, steps=9), tmp_path, every, checkpoint, validate_every=3)
    assert longer.seen == unbroken[model_class][0].seen[steps:9]
    assert longer.validated == [5] * {5: 2, 6: 1}[steps]


def test_an_order_that_cannot_be_continued_is_refused(latent_folder, tmp_path, unbroken):
    checkpoint = checkpoint_at(unbroken[Automatic][1], 5, Automatic)
    with pytest.raises(UserError, match=r"batch_size 7 → 6.*set it back"):
        fit(Automatic(), latent_data(latent_folder, batch_size=6), tmp_path, STEPS, checkpoint)


def test_latents_say_what_they_are(latent_folder):
    data = latent_data(latent_folder)
    data.setup("fit")
    assert (data.n_train, data.n_val, data.crops, data.grid, data.embedding_size) == (30, 5, 2, (2, 3), 4)
    batch = next(iter(data.train_dataloader()))
    assert batch["tokens"].shape == (7, 6) and batch["tokens"].dtype == torch.int64
    assert batch["clip"].shape == (7, 4) and batch["clip"].dtype == torch.float32
    assert batch["clip"][:, 0].tolist() == (batch["tokens"][:, 0] % 7).tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_latents_that_do_not_fit_in_memory_are_streamed_in_the_same_batches(latent_folder, num_workers):
    batches = []
    for memory_limit_bytes in (2 << 30, 30 * 2 * (2 * 3 + 4) * 2 - 1):  # the second is a byte less than they take
        data = latent_data(latent_folder, num_workers, memory_limit_bytes=memory_limit_bytes)
        data.setup("fit")
        batches.append([*data.train_dataloader(), *data.val_dataloader()])
        assert (data.train_batches._held is None) == (memory_limit_bytes < 2 << 30)
    assert len(batches[0]) == len(batches[1]) == STEPS + 1
    for held, streamed in zip(*batches, strict=True):
        assert all(torch.equal(held[name], streamed[name]) for name in ("tokens", "clip"))


@pytest.mark.parametrize("memory_limit_bytes", [0, 2 << 30])
@pytest.mark.parametrize("damage", ["a flipped bit", "a swapped pair"])
def test_damage_that_decodes_stops_the_training_and_names_the_shard(tmp_path, make_latents, memory_limit_bytes, damage):
    make_latents(tmp_path, n_train=24, n_val=0)
    first, second = tmp_path / shard_name("train", 0), tmp_path / shard_name("train", 1)
    if damage == "a flipped bit":
        content = bytearray(second.read_bytes())
        content[content.index(b"\x93NUMPY") + 140] ^= 1  # of a number
        second.write_bytes(content)
    else:
        first.rename(tmp_path / "x")
        second.rename(first)
        (tmp_path / "x").rename(second)
    with pytest.raises(UserError, match=r"train-00000[01]\.tar has sha256 \w+…, but the manifest says"):
        data = latent_data(tmp_path, memory_limit_bytes=memory_limit_bytes)
        data.setup("fit")
        list(data.train_dataloader())


def test_memory_for_streamed_latents_is_that_of_an_index(tmp_path, make_latents):
    grown = []
    for n in (500, 3_000):
        make_latents(tmp_path / f"{n}", n, n_val=0, crops=10, grid=(8, 8), split_at=250)  # 1.3 kB a sample
        data = latent_data(tmp_path / f"{n}", batch_size=50, steps=n // 50, memory_limit_bytes=0)
        tracemalloc.start()
        data.setup("fit")
        loader = data.train_dataloader()
        assert sum(len(batch["tokens"]) for batch in loader) == n
        grown.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert 0 < (grown[1] - grown[0]) / 2_500 < 200


def test_validation_sees_every_sample_once_in_order(latent_folder):
    data = latent_data(latent_folder, batch_size=2)
    data.setup("validate")
    tokens = [batch["tokens"][:, :2].tolist() for batch in data.val_dataloader()]
    assert tokens == [[[100, 0], [101, 0]], [[102, 0], [103, 0]], [[104, 0]]]
    data = latent_data(latent_folder, batch_size=2, val_samples=3)
    data.setup("validate")
    assert [len(batch["tokens"]) for batch in data.val_dataloader()] == [2, 1]


@pytest.mark.parametrize(("world", "accumulate", "sizes"), [(1, 1, [4, 1]), (2, 1, [2, 2, 1]), (2, 4, [1] * 5)])
def test_validation_holds_no_more_at_once_than_training(latent_folder, world, accumulate, sizes):
    data = latent_data(latent_folder, batch_size=4)
    data.setup("validate")
    data.trainer = SimpleNamespace(world_size=world, lightning_module=SimpleNamespace(accumulate=accumulate))
    assert [len(batch["tokens"]) for batch in data.val_dataloader()] == sizes


def image_batches(folder, **settings):
    data = ImageData(folder, **dict(image_size=8, batch_size=6, steps=9, seed=1, flip=True) | settings)
    data.setup("fit")
    return [batch["image"] for batch in data.train_dataloader()], [batch["image"] for batch in data.val_dataloader()]


def test_images_are_the_same_from_memory_and_from_disk_with_and_without_workers(image_folder):
    train, val = image_batches(image_folder)
    assert [batch.shape for batch in train] == [(6, 8, 8, 3)] * 9 and train[0].dtype == torch.uint8
    assert [len(batch) for batch in val] == [5] and val[0][:, 0, 0, 0].tolist() == [100, 101, 102, 103, 104]
    for settings in ({"memory_limit_bytes": 0}, {"num_workers": 2}, {"memory_limit_bytes": 0, "num_workers": 2}):
        other_train, other_val = image_batches(image_folder, **settings)
        assert all(map(torch.equal, train, other_train)) and all(map(torch.equal, val, other_val))


def test_training_crops_vary_in_place_and_are_mirrored(image_folder):
    train, _ = image_batches(image_folder, batch_size=20)
    green = torch.cat(train)[:, 0, :, 1]  # 255 in the left half of a picture
    assert {int(row.count_nonzero()) for row in green} == {2, 3, 4, 5, 6}
    assert 0.3 < (green[:, 0] == 255).float().mean() < 0.7


def test_an_epoch_shows_every_image_once(image_folder):
    train, _ = image_batches(image_folder, batch_size=5, steps=4)
    assert sorted(torch.cat(train)[:, 0, 0, 0].tolist()) == list(range(20))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_is_too_small_is_named_in_one_line(image_folder, num_workers):
    with pytest.raises(UserError, match=r"train-\d+\.tar: sample \d{9} is 12×10 pixels.*size=11") as raised:
        image_batches(image_folder, image_size=11, memory_limit_bytes=0, num_workers=num_workers)
    assert "\n" not in str(raised.value)


def test_a_folder_of_the_wrong_kind_is_refused(image_folder, latent_folder):
    with pytest.raises(UserError, match="holds latents, but images are needed"):
        ImageData(latent_folder, 8, 2, 3)
    with pytest.raises(UserError, match="holds images, but latents are needed"):
        LatentData(image_folder, 2, 3)


def test_a_damaged_or_missing_folder_stops_before_training(tmp_path, make_latents):
    with pytest.raises(UserError, match=r"manifest\.json does not exist: run `clipgen encode`"):
        LatentData(tmp_path, 2, 3)
    make_latents(tmp_path)
    shard = tmp_path / shard_name("train", 1)
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"train-000001\.tar has \d+ bytes, but the manifest says \d+"):
        LatentData(tmp_path, 2, 3)


def test_a_folder_without_validation_samples_trains_all_the_same(tmp_path, make_latents):
    make_latents(tmp_path / "latents", n_val=0)
    model = Automatic()
    fit(model, latent_data(tmp_path / "latents"), tmp_path / "run", every=100)
    assert model.batches == STEPS and not model.validated


def test_samples_that_differ_in_shape_are_named(tmp_path, make_latents):
    first = make_latents(tmp_path, n_train=3, n_val=0)
    (tmp_path / shard_name("train", 0)).rename(tmp_path / shard_name("train", 1))
    other = make_latents(tmp_path, n_train=3, n_val=0, grid=(3, 3))
    other.shards.append(type(first.shards[0])(**{**vars(first.shards[0]), "name": shard_name("train", 1)}))
    other.save(tmp_path)
    data = LatentData(tmp_path, 2, 3)
    with pytest.raises(UserError, match=r"train-000001\.tar: sample 000000000 has tokens \(2, 2, 3\)"):
        data.setup("fit")


@pytest.mark.parametrize(("limit", "given", "workers"), [(1 << 30, None, 0), (0, None, 1), (0, 0, 0), (1 << 30, 2, 2)])
def test_workers_load_what_memory_does_not_hold_where_nothing_is_said(
    latent_folder, monkeypatch, limit, given, workers
):
    monkeypatch.setattr(module, "cores", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    data = latent_data(latent_folder, given, memory_limit_bytes=limit)
    data.setup("fit")
    assert data.train_dataloader().num_workers == data.val_dataloader().num_workers == workers
