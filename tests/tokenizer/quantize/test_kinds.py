"""What every quantizer promises: gradients reach the encoder, tokens give back what was decoded, codes are used."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.tokenizer.codes import Perturbation, usage
from clipgen.tokenizer.quantize import Gumbel, MovingAverage, NearestCode, SimVQ, quantizer
from clipgen.tokenizer.upkeep import end_window, start_codebook, tend_codebook

KINDS = {
    "nearest": dict(name="nearest"),
    "nearest, euclidean": dict(name="nearest", unit_codes=False),
    "moving_average": dict(name="moving_average", decay=0.9),
    "moving_average, euclidean": dict(name="moving_average", unit_codes=False, decay=0.9),
    "simvq": dict(name="simvq"),
    "gumbel": dict(name="gumbel"),
    "fsq": dict(name="fsq", levels=[4, 4]),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
K = 16


def make(kind: str):
    torch.manual_seed(0)
    return quantizer(channels=6, codebook_size=K, code_dim=4, **KINDS[kind])


def encoded(scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(1))).requires_grad_()


@each_kind
def test_gradients_reach_the_encoder_and_both_projections(kind):
    module, z = make(kind), encoded()
    made = module(z)
    ((made.z_BChw * torch.randn_like(made.z_BChw)).sum() + made.loss).backward()
    assert z.grad.norm() > 0.01
    for name, parameter in module.named_parameters():
        if not (name == "codebook" and kind.startswith("gumbel")):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@each_kind
@torch.no_grad()
def test_tokens_give_back_what_the_decoder_got(kind):
    module = make(kind).eval()
    made = module(encoded(3.0))
    assert made.tokens_Bhw.shape == (3, 4, 5)
    assert made.tokens_Bhw.dtype == torch.long
    assert 0 <= made.tokens_Bhw.min() <= made.tokens_Bhw.max() < K == module.codebook_size == len(module.codes_KD)
    assert len(made.tokens_Bhw.unique()) > 2
    torch.testing.assert_close(module.lookup(made.tokens_Bhw), made.z_BChw, atol=1e-5, rtol=1e-5)
    assert torch.equal(module(encoded(3.0)).tokens_Bhw, made.tokens_Bhw)  # nothing is drawn outside of training


@each_kind
@torch.no_grad()
def test_a_code_is_its_own_token(kind):
    """The codes of all tokens, quantised again, are these tokens: nothing of the codebook is out of reach."""
    module = make(kind).eval()
    codes_KD = module.codes_KD
    if kind == "gumbel":  # its token is the likeliest, so the logits are made to fit
        module.logits.weight.copy_(codes_KD)
        module.logits.bias.copy_(-codes_KD.square().sum(-1) / 2)
    if kind == "fsq":  # which squeezes what it is given
        assert len(module.quantise(3 * torch.randn(1, 1000, 2), None)[1].unique()) == K
    else:
        assert torch.equal(module.quantise(codes_KD[None], None)[1][0], torch.arange(K))


@each_kind
def test_training_lets_the_codes_come_nearer_to_the_vectors(kind):
    module = make(kind)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    errors, counts_K = [], torch.zeros(K)
    for step in range(150):
        z = encoded(2.0).detach()
        made = module(z)
        error = F.mse_loss(made.z_BChw, z)
        optimizer.zero_grad()
        (error + made.loss).backward()
        optimizer.step()
        tokens_BL = made.tokens_Bhw.flatten(1)
        if step == 5:
            start_codebook(module, tokens_BL, made.vectors_ND, seed=0, batch=step)
        tend_codebook(module, tokens_BL, made.vectors_ND)
        if step % 25 == 24:
            end_window(module, tokens_BL, made.vectors_ND, seed=0, batch=step, restart=step < 100)
        counts_K = counts_K + torch.bincount(tokens_BL.flatten(), minlength=K) * (step >= 125)
        errors.append(error.item())
    assert sum(errors[-10:]) < 0.8 * sum(errors[:10])
    assert usage(counts_K) >= 0.3


@pytest.mark.parametrize("kind", ["nearest", "moving_average", "simvq"])
def test_the_decoder_gets_mistakes_and_the_tokens_and_the_loss_do_not(kind):
    torch.manual_seed(0)
    module = make(kind)
    plain, perturbed = module(encoded()), module(encoded(), perturbation=Perturbation(1.0, 1.0, 8))
    assert torch.equal(plain.tokens_Bhw, perturbed.tokens_Bhw)
    assert plain.loss == perturbed.loss
    assert not torch.allclose(plain.z_BChw, perturbed.z_BChw, atol=1e-3)


def test_the_moving_average_is_that_of_the_vectors_of_a_code():
    module = MovingAverage(6, 2, 2, unit_codes=False, decay=0.5)
    module.mean_counts_K.fill_(2.0)
    module.mean_sums_KD.copy_(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    module.learn(torch.tensor([4, 0]), torch.tensor([[0.0, 8.0], [0.0, 0.0]]))
    torch.testing.assert_close(module.mean_counts_K, torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(module.codebook, torch.tensor([[1 / 3, 4 / 3], [0.0, 2.0]]), atol=1e-3, rtol=1e-3)
    assert "codebook" not in dict(module.named_parameters())


def test_simvq_learns_its_matrix_and_never_its_codes():
    module = SimVQ(6, K, 4)
    before = module.codebook.clone()
    module(encoded()).loss.backward()
    assert module.transform.weight.grad.norm() > 0
    assert "codebook" not in dict(module.named_parameters())
    assert torch.equal(module.codebook, before)


def test_the_gumbel_loss_is_the_divergence_from_the_uniform_distribution():
    module = Gumbel(6, K, 4, kl_weight=2.0)
    with torch.no_grad():
        module.logits.weight.zero_()
        module.logits.bias.zero_()
    assert module(encoded()).loss.item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        module.logits.bias[3] = 100.0  # one code for all
    assert module(encoded()).loss.item() == pytest.approx(2.0 * torch.tensor(float(K)).log().item(), rel=1e-4)


def test_gumbel_draws_in_training_only():
    module = Gumbel(6, K, 4)
    assert not torch.equal(module(encoded()).tokens_Bhw, module(encoded()).tokens_Bhw)
    module.eval()
    assert torch.equal(module(encoded()).tokens_Bhw, module(encoded()).tokens_Bhw)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="nearest, moving_average"):
        quantizer("newest", 6, K, 4)
    assert isinstance(quantizer("nearest", 6, K, 4), NearestCode)
