"""Codes: the search in chunks and in float32, mistakes to train on, usage."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.tokenizer import codes
from clipgen.tokenizer.codes import Perturbation, clusters, nearest_codes, occurrences, perplexity, usage


def drawn(*shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_codes_are_the_same_in_chunks(monkeypatch):
    vectors_ND, codes_KD = drawn(1000, 4), drawn(64, 4, seed=1)
    wanted = torch.cdist(vectors_ND, codes_KD).argsort(-1)[:, :3]
    assert torch.equal(nearest_codes(vectors_ND, codes_KD, 3), wanted)
    for chunk in (1, 64 * 7, 64 * 1000):  # one row at a time, rows that do not divide, all
        monkeypatch.setattr(codes, "CHUNK", chunk)
        assert torch.equal(nearest_codes(vectors_ND, codes_KD)[:, 0], wanted[:, 0])


def test_the_nearest_code_is_found_in_float32_under_autocast():
    vectors_ND, codes_KD = F.normalize(drawn(2000, 4), dim=-1), F.normalize(drawn(1024, 4, seed=1), dim=-1)
    wanted = (vectors_ND @ codes_KD.T).argmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = (vectors_ND @ codes_KD.T).argmax(-1)
        found = nearest_codes(vectors_ND, codes_KD)[:, 0]
    assert not torch.equal(rough, wanted)  # else this test shows nothing
    assert torch.equal(found, wanted)


def test_the_nearest_code_is_found_without_tf32(monkeypatch):
    seen, product = [], torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda *each: seen.append(torch.get_float32_matmul_precision()) or product(*each)
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        nearest_codes(drawn(10, 4), drawn(8, 4))
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision(before)


def test_codes_are_counted():
    tokens_BL = torch.randint(0, 9, (5, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(occurrences(tokens_BL, 12), tokens_BL.flatten().bincount(minlength=12))


@pytest.mark.slow
def test_no_matrix_of_all_distances_is_held():
    """4 × 16² vectors of 8 pictures against 16,384 codes: 0.5 GB as one matrix."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **kwargs or {})
            for one in out if isinstance(out, tuple) else (out,):
                if isinstance(one, torch.Tensor):
                    largest = max(largest, one.numel())
            return out

    with Watch():
        nearest_codes(drawn(8192, 8), drawn(16_384, 8, seed=1))
    assert largest <= codes.CHUNK < 8192 * 16_384


def test_a_share_of_the_pictures_gets_near_codes_instead():
    torch.manual_seed(0)
    codes_KD, vectors_BLD = drawn(50, 4), drawn(10, 40, 4, seed=1)
    tokens_BL = nearest_codes(vectors_BLD.flatten(0, 1), codes_KD).view(10, 40)
    near_BLk = nearest_codes(vectors_BLD.flatten(0, 1), codes_KD, 5).view(10, 40, 5)
    made_BL = Perturbation(share=0.3, prob=0.5, neighbours=5)(tokens_BL, vectors_BLD, codes_KD)
    assert torch.equal(made_BL[3:], tokens_BL[3:])
    assert (made_BL[..., None] == near_BLk).any(-1).all()
    assert 0.25 < (made_BL[:3] != tokens_BL[:3]).float().mean() < 0.55  # half of them, a fifth of these unchanged
    assert torch.equal(Perturbation(0.0, 1.0, 5)(tokens_BL, vectors_BLD, codes_KD), tokens_BL)


@pytest.mark.parametrize(
    ("counts", "share", "codes"),
    [([3, 3, 3, 3], 1.0, 4.0), ([5, 5, 0, 0], 0.5, 2.0), ([7, 0, 0, 0], 0.25, 1.0), ([2, 1, 1, 0], 0.75, 2 * 2**0.5)],
)
def test_usage_and_perplexity(counts, share, codes):
    assert usage(torch.tensor(counts)) == share
    assert perplexity(torch.tensor(counts)) == pytest.approx(codes, rel=1e-5)


def test_codes_that_are_alike_are_in_one_cluster():
    centre_ND = 10 * drawn(12, 6)
    wanted_K = torch.randint(12, (300,), generator=torch.Generator().manual_seed(2))
    codes_KD = centre_ND[wanted_K] + 0.1 * drawn(300, 6, seed=3)
    cluster_K = clusters(codes_KD, 12)
    assert cluster_K.unique().tolist() == list(range(12))
    assert torch.equal(cluster_K[:, None] == cluster_K, wanted_K[:, None] == wanted_K)
    torch.manual_seed(5)
    assert torch.equal(clusters(codes_KD, 12), cluster_K)
    assert clusters(codes_KD, 300).unique().numel() == 300 and clusters(codes_KD, 1).sum() == 0


def test_more_clusters_than_codes_differ_leave_some_empty():
    assert clusters(torch.eye(3).repeat(4, 1), 6).unique().numel() == 3


def test_k_means_ends_where_every_code_is_nearest_to_its_own_mean():
    codes_KD = drawn(400, 3)
    cluster_K = clusters(codes_KD, 8, rounds=200)
    mean_ND = torch.stack([codes_KD[cluster_K == n].mean(0) for n in range(8)])
    assert torch.equal(nearest_codes(codes_KD, mean_ND)[:, 0], cluster_K)
