"""Local processes, Ray and Slurm give the same bytes; a lost worker loses nothing; what is missing is one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipgen.errors import UserError
from clipgen.tokenizer.vqgan import VQGAN
from data_prep.executor import Executor, run
from data_prep.pack import REPORT, PackSettings, pack

# `python script.py KIND FOLDER CLIP`: FOLDER/images → shards → latents; a worker kills itself once in each where DIES
SCRIPT = """
import os, sys
from pathlib import Path
import data_prep.encode, data_prep.pack
from clipgen.cli.latents import MakeEncoders
from clipgen.errors import UserError
from data_prep.executor import Executor

kind, folder, clip = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

def dying(name):
    def work(job, tick):
        ticks = 0
        def counted():
            nonlocal ticks
            ticks, marker = ticks + 1, folder / ("died-in-" + name)
            if ticks == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), 9)
            tick()
        module, _, function = name.rpartition(".")
        __import__(module)
        getattr(sys.modules[module], function)(job, counted)
    return work

if __name__ == "__main__":
    if DIES:  # a worker imports the whole ones
        data_prep.pack.make_chunk = dying("data_prep.pack.make_chunk")
        data_prep.encode.encode_one = dying("data_prep.encode.encode_one")
    executor = Executor(kind, "local", tasks=2, logs=str(folder / "logs"))
    make = MakeEncoders(str(folder / "vqgan.ckpt"), "local-dir:" + clip, None, "cpu", "fp32")
    os.chdir(folder)  # relative paths mean the same to all
    for _ in range(3):
        try:
            settings = data_prep.pack.PackSettings(size=8, samples_per_shard=9, val_fraction=0.2, min_size=4)
            data_prep.pack.pack("images", kind + "/shards", settings, executor=executor)
            data_prep.encode.encode(kind + "/shards", kind + "/latents", make(), ["a", "b"], "the test", batch_size=3,
                                    executor=executor, make_encoders=make)
        except UserError as error:
            print(error)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """images/ and vqgan.ckpt."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    for i in range(30):
        Image.new("RGB", (12, 10), (i, 8 * i, 255 - i)).save(folder / "images" / f"{i}.png")
    torch.manual_seed(0)
    settings = dict(image_size=8, codebook_size=64, code_dim=4, channels=32, channel_multipliers=[1, 2])
    settings |= dict(res_blocks=1, z_channels=8, norm_groups=4)
    state = {f"vqgan.{name}": tensor for name, tensor in VQGAN(**settings).state_dict().items()}
    about = {"stage": "vqgan", "settings": {"tokenizer": settings}}
    torch.save({"clipgen": about, "state_dict": state}, folder / "vqgan.ckpt")
    return folder


def made(kind: str, inputs: Path, clip: Path, dies: bool) -> tuple[dict[str, bytes], str]:
    """The bytes of all files but the report, which tells how long it took, and what was said."""
    script = inputs / "script.py"
    script.write_text(f"DIES = {dies}\n{SCRIPT}")
    done = subprocess.run([sys.executable, script, kind, inputs, clip], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    out = inputs / kind
    found = (path for path in out.rglob("*") if path.is_file() and path.name != REPORT)
    return {str(path.relative_to(out)): path.read_bytes() for path in found}, done.stdout


@pytest.fixture(scope="module")
def local(inputs, tiny_clip_folder) -> dict[str, bytes]:
    files, said = made("local", inputs, tiny_clip_folder, dies=False)
    assert not said and {"shards/train-000003.tar", "latents/train-000003.tar"} <= set(files)
    assert {"shards/manifest.json", "latents/manifest.json", "latents/statistics.safetensors"} <= set(files)
    return files


@pytest.mark.slow
def test_slurm_gives_the_same_bytes_though_a_task_is_lost_in_each_step(inputs, tiny_clip_folder, local):
    pytest.importorskip("submitit", reason="submitit is not installed")
    files, said = made("slurm", inputs, tiny_clip_folder, dies=True)
    assert files == local
    lines = said.splitlines()
    assert len(lines) == 2 and all(
        "a task of Slurm was lost" in line and "run the same command" in line for line in lines
    )


@pytest.mark.slow
def test_ray_gives_the_same_bytes_though_a_worker_is_killed_in_each_step(inputs, tiny_clip_folder, local):
    pytest.importorskip("ray", reason="ray is not installed")
    files, said = made("ray", inputs, tiny_clip_folder, dies=True)
    assert files == local and "run the same command" not in said  # Ray itself runs the task again, and says so
    assert {path.name for path in inputs.glob("died-in-*")} == {
        "died-in-data_prep.pack.make_chunk",
        "died-in-data_prep.encode.encode_one",
    }


FAILING = """
import os, sys
from clipgen.errors import UserError
from data_prep.executor import Executor, run

def work(job, tick):
    if WHAT == "killed":
        os.kill(os.getpid(), 9)
    raise {"fails": UserError("job 2 is impossible"), "breaks": KeyError("a defect")}[WHAT]

if __name__ == "__main__":
    try:
        run(work, [1, 2], 1, "working", 2, executor=Executor(sys.argv[1], "local", tasks=1, logs=sys.argv[2], **MORE))
    except UserError as error:
        print(error)
"""


def said_by(kind: str, folder: Path, what: str, **more) -> tuple[str, str]:
    script = folder / "script.py"
    script.write_text(f"WHAT, MORE = {what!r}, {more!r}\n{FAILING}")
    words = [sys.executable, script, kind, folder / "logs"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    return done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["slurm", pytest.param("ray", marks=pytest.mark.slow)])
def test_what_goes_wrong_elsewhere_is_said_here(tmp_path, kind):
    pytest.importorskip({"slurm": "submitit"}.get(kind, kind))
    assert said_by(kind, tmp_path, "fails")[0] == "job 2 is impossible\n"
    out, errors = said_by(kind, tmp_path, "breaks")
    assert not out and "KeyError: 'a defect'" in errors


@pytest.mark.slow
def test_a_ray_worker_that_dies_each_time_is_given_up(tmp_path):
    pytest.importorskip("ray")
    said = said_by("ray", tmp_path, "killed")[0].splitlines()[-1]  # above it Ray tells of each
    assert said.startswith("a Ray worker was lost 4 times")
    assert "what is complete is kept, run the same command again" in said


@pytest.mark.slow
def test_a_task_that_fits_on_no_node_is_refused(tmp_path):
    pytest.importorskip("ray")
    said, _ = said_by("ray", tmp_path, "fails", gpus=99)
    assert said.startswith("executor.gpus=99, but no node of the Ray cluster has more than")


def anywhere(executor: Executor) -> str:
    with pytest.raises(UserError) as raised:
        run(print, [1], 1, "working", 1, executor=executor)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("kind, package", [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named(monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    said = anywhere(Executor(kind))
    assert said == f"executor={kind} needs {package}, which is not installed; pip install 'clipgen[{kind}]'"


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("ray")
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "no sbatch here" in anywhere(Executor("slurm"))
    assert "Slurm knows auto" in anywhere(Executor("slurm", "10.0.0.1:6379"))
    assert "Slurm gives whole ones" in anywhere(Executor("slurm", gpus=0.5))
    assert "executor.address=auto: no Ray cluster answers there" in anywhere(Executor("ray"))
    assert "executor.kind=dask is unknown" in anywhere(Executor("dask"))


def test_what_is_done_asks_no_cluster(inputs, tmp_path):
    settings = PackSettings(min_size=4)
    first = pack(inputs / "images", tmp_path, settings)
    assert pack(inputs / "images", tmp_path, settings, executor=Executor("ray", "10.0.0.1:1")) == first
