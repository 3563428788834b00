"""bf16 is taken where it is the faster: measured on a CPU, asked of a GPU."""

import pytest
import torch

from clipgen import bf16


@pytest.fixture(autouse=True)
def _fresh():
    bf16.bf16_pays.cache_clear()
    yield
    bf16.bf16_pays.cache_clear()


@pytest.mark.parametrize(("half", "pays"), [(1.0, True), (2.0, True), (2.1, False)])
def test_a_cpu_is_measured(monkeypatch, half, pays):
    monkeypatch.setattr(bf16, "_seconds", lambda dtype: half if dtype == torch.bfloat16 else 2.0)
    assert bf16.bf16_pays("cpu") is pays


def test_it_is_measured_once(monkeypatch):
    first = bf16.bf16_pays("cpu")
    monkeypatch.setattr(bf16, "_seconds", lambda dtype: pytest.fail("measured again"))
    assert bf16.bf16_pays("cpu") is first


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked_whether_it_can_without_emulation(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert bf16.bf16_pays("cuda") is supported
