"""Two processes that train together see what one alone sees, and continue as exactly."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clipgen.data.module import LatentData

SCRIPT = Path(__file__).with_name("ranks.py")
STEPS, BATCH, KILLED_AT, SAVED_AT = 17, 8, 6, 5


def run(folder: Path, latents: Path, *phases: str, world: int = 2, dies: bool = False) -> list[dict]:
    """What each rank saw."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if world > 1 else {}
    shared |= {"DIES": "1"} if dies else {}
    folder.mkdir(exist_ok=True)
    ranks = []
    for rank in range(world):
        with open(folder / f"{rank}.log", "w") as log:
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
            words = [sys.executable, SCRIPT, folder, latents, *phases]
            ranks.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
    try:
        codes = [rank.wait(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    logs = "\n".join((folder / f"{rank}.log").read_text()[-2000:] for rank in range(world))
    assert all(code == 0 for code in codes) or dies, logs
    return [] if dies else [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world)]


def alone(latents: Path) -> list[list]:
    """The batches of one process, as [sample, crop] pairs."""
    data = LatentData(latents, BATCH, STEPS, seed=3)
    data.setup("fit")
    return [batch["tokens"][:, :2].tolist() for batch in data.train_dataloader()]


def test_two_ranks_see_the_global_batches_of_one_and_continue_exactly(latent_folder, tmp_path):
    ranks = run(tmp_path, latent_folder, "whole", "killed", "continued")
    for rank, found in enumerate(ranks):
        expected = [batch[rank::2] for batch in alone(latent_folder)]
        assert len(expected) == STEPS
        for num_workers in ("0", "2"):
            assert found["whole"][num_workers]["seen"] == expected
            assert found["killed"][num_workers]["seen"] == expected[:KILLED_AT]  # one batch that no checkpoint has
            assert found["continued"][num_workers]["seen"] == expected[SAVED_AT:]
            assert found["continued"][num_workers]["weight"] == found["whole"][num_workers]["weight"]
    assert ranks[0]["whole"]["0"]["weight"] == ranks[1]["whole"]["0"]["weight"]


@pytest.mark.slow
def test_two_ranks_killed_in_earnest_are_continued_by_two_and_by_one(latent_folder, tmp_path):
    run(tmp_path, latent_folder, "killed", dies=True)  # before the turn of 2 workers
    for world in (2, 1):
        for rank, found in enumerate(run(tmp_path, latent_folder, "continued", world=world)):
            expected = [batch[rank::world] for batch in alone(latent_folder)[SAVED_AT:]]
            assert found["continued"]["0"]["seen"] == found["continued"]["2"]["seen"] == expected
