"""Training a small CLIP on captioned pictures, and the folder it leaves."""

import io
import json

import open_clip
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image

from clipgen.checkpoint import read_checkpoint
from clipgen.clip.frozen import load_clip
from clipgen.clip.module import ClipModule, save_open_clip
from clipgen.data.manifest import Manifest
from clipgen.data.module import CaptionedData
from clipgen.data.sample import image_sample, sample_key
from clipgen.data.shards import shard_name, write_shard
from clipgen.data.transforms import to_model_range
from clipgen.shapes.draw import world

STEPS = 30
SIZE = 32


@pytest.fixture(scope="module")
def captioned_folder(tmp_path_factory):
    """64 drawn pictures to train on and 16 to validate with, a caption each."""
    folder = tmp_path_factory.mktemp("captioned")
    drawn = list(world(80, 0, SIZE))

    def sample(i):
        buffer = io.BytesIO()
        Image.fromarray(drawn[i][1]).save(buffer, "png")
        return image_sample(sample_key(i), buffer.getvalue(), "png", {"source": f"{i}.png"}, [drawn[i][2]])

    shards = [
        write_shard(folder / shard_name(split, 0), map(sample, rows))
        for split, rows in (("train", range(64)), ("val", range(64, 80)))
    ]
    pixels = {"train": 64 * SIZE * SIZE, "val": 16 * SIZE * SIZE}
    Manifest("images", shards, {"fingerprint": "test"}, {"pixels": pixels}).save(folder)
    return folder


def module(architecture, **changes) -> ClipModule:
    torch.manual_seed(0)
    return ClipModule(architecture, **{"steps": STEPS, "lr": 1e-3, "warmup": 5} | changes)


def data(folder) -> CaptionedData:
    return CaptionedData(folder, SIZE, batch_size=16, steps=STEPS, seed=1)


class Losses(pl.Callback):
    def __init__(self):
        self.train = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.train.append(trainer.callback_metrics["train/loss"].item())


@pytest.fixture(scope="module")
def trained(captioned_folder, tiny_clip_architecture, tmp_path_factory, make_trainer, save_at):
    folder, losses = tmp_path_factory.mktemp("trained"), Losses()
    made = module(tiny_clip_architecture, settings={"clip": tiny_clip_architecture})
    trainer = make_trainer(losses, save_at(folder, {12, STEPS}), val_check_interval=STEPS)
    trainer.fit(made, datamodule=data(captioned_folder))
    return made, losses, folder, trainer


def test_the_loss_falls(trained):
    made, losses, _, trainer = trained
    assert made.batches == len(losses.train) == STEPS
    assert losses.train[0] > 2.5  # log(16) is 2.77
    assert sum(losses.train[-3:]) / 3 < 0.75 * losses.train[0]
    assert {"val/loss", "val/accuracy", "train/accuracy", "lr"} < set(trainer.callback_metrics)


def test_a_resumed_training_ends_bit_for_bit_as_an_unbroken_one(
    trained, captioned_folder, tiny_clip_architecture, tmp_path, make_trainer, save_at
):
    _, losses, folder, _ = trained
    continued, seen = module(tiny_clip_architecture), Losses()
    trainer = make_trainer(seen, save_at(tmp_path, {STEPS}), val_check_interval=STEPS)
    trainer.fit(continued, datamodule=data(captioned_folder), ckpt_path=folder / "12.ckpt", weights_only=True)
    assert seen.train == losses.train[12:]
    wanted, found = (read_checkpoint(each / f"{STEPS}.ckpt", "clip") for each in (folder, tmp_path))
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], rtol=0, atol=0)
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (found, wanted)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@torch.no_grad()
def test_open_clip_itself_loads_the_folder(trained, tmp_path):
    made, _, _, _ = trained
    save_open_clip(made, tmp_path, ["a red circle"])
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}", require_pretrained=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    made.eval()
    texts = ["a small red circle on white", "a ring"]
    wanted = made.clip.encode_text(made.tokenizer(texts))
    torch.testing.assert_close(model.eval().encode_text(tokenizer(texts)), wanted, atol=0.01, rtol=0.01)  # float16
    picture = Image.fromarray(next(world(1, 5, SIZE))[1])
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, SIZE, SIZE, 3)
    wanted = F.normalize(made.clip.encode_image(to_model_range(pixels)), dim=-1)
    found = F.normalize(model.encode_image(preprocess(picture)[None]), dim=-1)
    assert (wanted * found).sum() > 0.999  # the preprocessing that is written is the one it was trained with
    torch.testing.assert_close(load_clip(f"local-dir:{tmp_path}").encode_image(to_model_range(pixels)), found)
    made.train()


def test_what_the_folder_holds(trained, tmp_path, tiny_clip_architecture):
    made, _, _, _ = trained
    save_open_clip(made, tmp_path, ["a red circle", "größer"])
    names = {"open_clip_config.json", "open_clip_model.safetensors", "captions.txt", "training.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "captions.txt").read_text(encoding="utf-8") == "a red circle\ngrößer\n"
    assert json.loads((tmp_path / "training.json").read_text()) == {"clip": tiny_clip_architecture}
    parameters = sum(parameter.numel() for parameter in made.clip.parameters())
    assert (tmp_path / "open_clip_model.safetensors").stat().st_size < 2.1 * parameters  # two bytes each


def test_every_id_of_the_tokenizer_is_accepted(trained):
    made, _, _, _ = trained
    text = "🎈 größe ½ " + "".join(map(chr, range(33, 127)))
    tokens_BT = made.tokenizer([text, "a"])
    assert tokens_BT.max() == 49_407  # the end of a text
    assert torch.isfinite(made.clip.encode_text(tokens_BT)).all()
    last_BT = torch.full((1, 24), 49_407)
    assert torch.isfinite(made.clip.encode_text(last_BT)).all()


def test_the_temperature_is_bounded(captioned_folder, tiny_clip_architecture, make_trainer):
    made = module(tiny_clip_architecture, warmup=0)
    with torch.no_grad():
        made.clip.logit_scale.fill_(50.0)
    make_trainer(limit_train_batches=1, limit_val_batches=0).fit(made, datamodule=data(captioned_folder))
    assert made.clip.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-3)


def test_weight_decay_spares_the_vectors(tiny_clip_architecture):
    made = module(tiny_clip_architecture, weight_decay=0.3)
    decayed, plain = made.configure_optimizers().param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(made.clip.parameters()))
    assert {parameter.ndim for parameter in plain["params"]} <= {0, 1}


def test_a_fixed_logit_scale_stays_where_it_is(captioned_folder, tiny_clip_architecture, make_trainer):
    made = module(tiny_clip_architecture, logit_scale=100)
    before = made.clip.visual.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    make_trainer().fit(made, data(captioned_folder))
    assert made.clip.logit_scale.exp().item() == pytest.approx(100)
    assert any(not torch.equal(before[name], tensor) for name, tensor in made.clip.visual.state_dict().items())
