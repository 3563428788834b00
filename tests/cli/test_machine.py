"""What `auto` takes on the machine at hand."""

import json
import subprocess
import sys

import pytest

from clipgen.cli import latents, machine
from clipgen.cli.machine import pick_precision
from clipgen.config import Trainer


@pytest.mark.parametrize(("pays", "taken"), [(True, "bf16-mixed"), (False, "32-true")])
def test_training_is_in_bf16_where_that_pays_unless_told_otherwise(monkeypatch, pays, taken):
    monkeypatch.setattr(machine, "bf16_pays", lambda device: pays)
    assert pick_precision(Trainer(device="cpu")) == taken
    for told in ("32-true", "bf16-mixed", "16-mixed"):
        assert pick_precision(Trainer(device="cpu", precision=told)) == told


def test_the_memory_of_a_process_is_not_that_of_its_parent():
    child = "import torch; from clipgen.cli import machine; print(machine.peak_memory_mb(torch.device('cpu')))"
    begun = f"import subprocess, sys; held = b'x' * (1 << 30); subprocess.run([sys.executable, '-c', {child!r}])"
    said = subprocess.run([sys.executable, "-c", begun], check=True, capture_output=True, text=True).stdout
    assert 100 < float(said) < 1024


def test_all_ranks_take_what_the_first_finds(monkeypatch):
    monkeypatch.setattr(machine, "bf16_pays", lambda device: False)
    monkeypatch.setattr(machine, "from_rank_zero", lambda make: True)
    assert pick_precision(Trainer(device="cpu")) == "bf16-mixed"


@pytest.mark.parametrize("pays", [True, False])
def test_encoding_is_tried_in_bf16_where_that_pays(monkeypatch, clipgen, tokenizer, tiny, run_folder, tmp_path, pays):
    monkeypatch.setattr(latents, "bf16_pays", lambda device: pays)
    monkeypatch.setattr(latents, "agreement", lambda *_: (0.999, 0.9999) if pays else pytest.fail("was tried"))
    words = [f"shards={run_folder / 'shards'}", f"latents={tmp_path / 'latents'}", tokenizer, *tiny]
    outcome = clipgen("encode", *words)
    assert outcome.status == 0, outcome.error
    kind, why = ("bf16", "in bf16 99.90% of the tokens") if pays else ("fp32", "bf16 is the slower on this device")
    assert f"encode.precision={kind}  ({why}" in outcome.said
    made = json.loads((tmp_path / "latents" / "manifest.json").read_text())["made_by"]["encode"]
    assert made["precision"] == kind
