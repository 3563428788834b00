"""`trainer.devices=2`: two processes train what one does, end together, and continue together."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from clipgen.checkpoint import read_checkpoint

# batches: 0 to 2 unquantised, from 3 with codes drawn from both ranks' vectors and restarted, the GAN from 4
VQGAN = [
    "stage=vqgan", "tokenizer.train.steps=8", "tokenizer.train.continuous_steps=3", "tokenizer.train.usage_window=2",
    "tokenizer.train.gan_start=4", "tokenizer.codebook_size=16", "trainer.precision=32-true", "trainer.val_every=2",
]  # fmt: skip
KINDS = {
    "nearest": [],
    "moving average": ["tokenizer.quantizer=moving_average", "tokenizer.decay=0.9"],
    "in two parts": ["tokenizer.train.accumulate=2", "tokenizer.train.lecam=0.01"],
}


@pytest.fixture
def train(clipgen_process, run_folder, tokenizer, tiny, tmp_path):
    """`clipgen train` on the finished run's shards or latents; the checkpoint."""

    def train(name: str, devices: int, *words: str) -> dict:
        folder = tmp_path / name
        inputs = [f"shards={run_folder / 'shards'}", f"latents={run_folder / 'latents'}", f"out={folder}"]
        own = [tokenizer] if "stage=transformer" in words else []
        outcome = clipgen_process("train", *tiny, *inputs, *own, *words, f"trainer.devices={devices}")
        assert outcome.status == 0, outcome.error
        stage = words[0].removeprefix("stage=")
        assert outcome.said.count(f"{stage}: done in") == 1  # one process speaks
        return read_checkpoint(folder / stage / "last.ckpt", stage)

    return train


@pytest.mark.parametrize("kind", ["nearest", *(pytest.param(k, marks=pytest.mark.slow) for k in list(KINDS)[1:])])
def test_two_ranks_train_what_one_does_with_all_of_the_batch(train, kind):
    one, two = (train(f"{n}", n, *VQGAN, *KINDS[kind])["state_dict"] for n in (1, 2))
    assert one["vqgan.quantizer.codebook"].abs().sum() > 0
    # Adam divides rounding by the root of a tiny second moment: single weights may differ by as much as it moves them
    for name, tensor in one.items():
        difference = (two[name].float() - tensor.float()).abs()
        assert difference.mean() < 1e-5 and difference.max() < 1e-3, (name, difference.mean(), difference.max())


@pytest.mark.slow
def test_two_ranks_train_the_clip_of_one(train, clipgen, clipgen_process, one_line, tmp_path):
    """Each picture is told from those of both ranks. A ResNet's batch norm cannot be shared."""
    images, shards = tmp_path / "images", tmp_path / "shards"
    assert clipgen("draw", f"out={images}", "n=60", "captions=true").status == 0
    assert clipgen("prep", f"images={images}", f"shards={shards}", f"captions={images}.tsv").status == 0
    words = ["stage=clip", "clip=small", f"shards={shards}", "clip.train.warmup=1"]
    words += ["clip.train.steps=4", "clip.train.batch_size=8", "trainer.threads=1", "trainer.device=cpu"]
    outcome = clipgen_process("train", *words, f"out={tmp_path / 'resnet'}", "trainer.devices=2")
    assert "normalises over a batch, of which each device has a part" in one_line(outcome)
    words += ["trainer.precision=32-true", "clip.architecture.vision_cfg.layers=1"]
    words += ["clip.architecture.vision_cfg.width=64", "+clip.architecture.vision_cfg.patch_size=8"]
    one, two = (train(f"{n}", n, *words)["state_dict"] for n in (1, 2))
    assert one["clip.logit_scale"] != torch.tensor(1 / 0.07).log()
    for name, tensor in one.items():
        difference = (two[name].float() - tensor.float()).abs()
        if name.endswith("in_proj_bias"):
            query, _, value = difference.chunk(3)  # a softmax does not see the keys' bias: its gradient is rounding
            difference = torch.cat([query, value])
        assert difference.mean() < 1e-5 and difference.max() < 1e-3, (name, difference.mean(), difference.max())


TRANSFORMER = [
    "stage=transformer", "trainer.precision=32-true", "transformer.train.optimizer=muon", "transformer.train.rar=true",
    "transformer.train.accumulate=2", "transformer.train.aux_weight=0.1", "transformer.dropout=0",
    "trainer.val_every=2",
]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        [],
        *(
            pytest.param([word], marks=pytest.mark.slow)
            for word in ("transformer.gft=true", "trainer.strategy=fsdp", "transformer.train.optimizer=adamw")
        ),
    ],
)
def test_two_ranks_train_the_transformer_of_one(train, words):
    """Levels, noise, dropped conditions and orders are those of the whole batch, whoever draws them."""
    of_one = [word for word in words if "strategy" not in word]  # float32: in bf16 Muon enlarges rounding
    one, two = train("one", 1, *TRANSFORMER, *of_one), train("two", 2, *TRANSFORMER, *words)
    assert two["clipgen"]["batches"] == 6
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        difference = (two["state_dict"][name] - tensor).abs()
        assert difference.mean() < 1e-5 and difference.max() < 1e-3, (name, difference.mean(), difference.max())
    moved = one["state_dict"]["transformer.head.weight"]  # which begins at 0
    assert moved.abs().mean() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_shared_out_weights_are_continued_and_sampled_from(
    train, clipgen_process, run_folder, tokenizer, tiny, tmp_path, optimizer
):
    words = [*TRANSFORMER, "trainer.strategy=fsdp", f"transformer.train.optimizer={optimizer}"]
    whole = train("whole", 2, *words)
    folder = tmp_path / "killed"
    inputs = [f"latents={run_folder / 'latents'}", tokenizer]
    command = [sys.executable, "-m", "clipgen.cli.main", "train", *tiny, *inputs, *words, f"out={folder}"]
    quiet = {"start_new_session": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "trainer.devices=2"], **quiet) as run:
        while not (folder / "transformer" / "last.ckpt").exists():
            assert run.poll() is None and time.sleep(0.01) is None
        os.killpg(run.pid, signal.SIGKILL)
    assert read_checkpoint(folder / "transformer" / "last.ckpt", "transformer")["clipgen"]["batches"] < 6
    continued = train("killed", 2, *words)
    torch.testing.assert_close(continued["state_dict"], whole["state_dict"], rtol=0, atol=0)

    clip = [word for word in tiny if word.startswith("clip.")]
    made = clipgen_process(
        "export", f"run={run_folder}", f"transformer.ckpt={folder / 'transformer' / 'last.ckpt'}",
        f"out={tmp_path / 'model'}", *clip,
    )  # fmt: skip
    assert made.status == 0, made.error
    made = clipgen_process("sample", f"model={tmp_path / 'model'}", f"out={tmp_path / 'made'}", "n=1", "a red circle")
    assert made.status == 0, made.error
    assert list((tmp_path / "made").rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [VQGAN, [*VQGAN, "trainer.compile=true"], TRANSFORMER], ids=["vqgan", "compiled", "transformer"]
)
def test_two_killed_ranks_continue_to_the_same_end(train, run_folder, tokenizer, tiny, tmp_path, words):
    stage = words[0].removeprefix("stage=")
    whole = train("whole", 2, *words)
    inputs = [f"shards={run_folder / 'shards'}", f"latents={run_folder / 'latents'}", f"out={tmp_path / 'killed'}"]
    own = [tokenizer] if stage == "transformer" else []
    command = [sys.executable, "-m", "clipgen.cli.main", "train", *tiny, *inputs, *own, *words, "trainer.devices=2"]
    quiet = {"start_new_session": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    last = tmp_path / "killed" / stage / "last.ckpt"
    with subprocess.Popen(command, **quiet) as run:
        while not last.exists():
            assert run.poll() is None and time.sleep(0.01) is None
        os.killpg(run.pid, signal.SIGKILL)
    assert read_checkpoint(last, stage)["clipgen"]["batches"] < whole["clipgen"]["batches"]
    continued = train("killed", 2, *words)
    torch.testing.assert_close(continued["state_dict"], whole["state_dict"], rtol=0, atol=0)


@pytest.mark.slow
def test_ctrl_c_stops_both_ranks_after_the_same_batch_and_they_continue(train, run_folder, tiny, tmp_path):
    words = [*VQGAN, "tokenizer.train.steps=30"]
    folder = tmp_path / "stopped"
    command = [sys.executable, "-m", "clipgen.cli.main", "train", *tiny, *words, f"out={folder}", "trainer.devices=2"]
    run = subprocess.Popen(
        [*command, f"shards={run_folder / 'shards'}"], start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (folder / "vqgan" / "last.ckpt").exists():
        assert run.poll() is None and time.sleep(0.01) is None
    os.killpg(run.pid, signal.SIGINT)
    error = run.communicate(timeout=60)[1]  # when no process holds the pipe any more
    assert run.returncode == 130, error
    lines = [line for line in error.splitlines() if "clipgen" in line or "Traceback" in line or "rror" in line]
    batches = read_checkpoint(folder / "vqgan" / "last.ckpt", "vqgan")["clipgen"]["batches"]
    assert lines == [f"clipgen: stopped after batch {batches} of 30; the same command again continues"]
    assert batches < 30 and not list(folder.rglob(".*"))  # nothing temporary
    continued = train("stopped", 2, *words)
    assert continued["clipgen"]["batches"] == 30


def test_what_one_rank_refuses_is_one_line_and_ends_all(clipgen_process, one_line, run_folder, tiny, tmp_path):
    shards = f"shards={run_folder / 'shards'}"
    outcome = clipgen_process("train", *tiny, "stage=vqgan", shards, f"out={tmp_path}", "trainer.devices=3")
    assert "tokenizer.train.batch_size=8 cannot be shared by trainer.devices=3" in one_line(outcome)


def test_a_sweep_over_several_devices_is_refused(clipgen_process, one_line, run_folder, tiny, tmp_path):
    words = ["stage=vqgan", f"shards={run_folder / 'shards'}", f"out={tmp_path}", "trainer.devices=2"]
    outcome = clipgen_process("train", "-m", *tiny, *words, "seed=0,1", folder=tmp_path)
    assert "trainer.devices=2 in a sweep" in one_line(outcome)
