"""Compiled, the Transformer trains alike and saves the same names; shared out, Muon still sees whole matrices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipgen.transformer.execution import compile_in_place
from clipgen.transformer.model import Transformer

SCRIPT = Path(__file__).with_name("sharded_muon.py")


@pytest.mark.slow
def test_compiled_it_gives_the_same_gradients_under_the_same_names():
    tokens_BL, condition_BE, level_B = torch.randint(20, (2, 6)), torch.randn(2, 4), torch.rand(2)
    networks = []
    for compiled in (False, True):
        torch.manual_seed(0)
        network = Transformer((2, 3), 20, 4, 32, 1, 2, cond_drop_prob=0.0)
        torch.nn.init.normal_(network.head.weight, std=0.5)
        if compiled:
            compile_in_place(network)
        network.outputs(tokens_BL, condition_BE, level_B)[1].square().mean().backward()
        networks.append(network)
    plain, made = networks
    assert plain.state_dict().keys() == made.state_dict().keys()
    for (name, one), (_, other) in zip(plain.named_parameters(), made.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_muon_orthogonalises_the_whole_of_a_shared_out_matrix(dtype):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, dtype], env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=200)[0] for rank in ranks]
    whole, halves = map(float, said[0].split())
    assert whole < 1e-6 < 0.3 < halves  # relative distance to the update of one process
