"""The nearest code: which term moves what, on the sphere and off it, and how a codebook is kept alive."""

import torch
import torch.nn.functional as F

from clipgen.tokenizer.quantize import NearestCode


def quantizer(codebook_size=16, commitment=0.25, code_dim=4, **settings) -> NearestCode:
    torch.manual_seed(0)
    return NearestCode(6, codebook_size, code_dim, commitment, **settings)


def encoded() -> torch.Tensor:
    return torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()


def unit(*shape) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(2)), dim=-1)


def test_gradients_pass_straight_through_to_the_encoder():
    module, weight = quantizer(), torch.randn(2, 6, 3, 5)
    grads = []
    for quantise in (True, False):
        z = encoded()
        (module(z, quantise).z_BChw * weight).sum().backward()
        grads.append(z.grad)
    assert grads[0].norm() > 0.1
    torch.testing.assert_close(grads[0], grads[1])


def loss_gradients(commitment: float) -> tuple[torch.Tensor, torch.Tensor]:
    module, z = quantizer(commitment=commitment), encoded()
    module(z).loss.backward()
    return z.grad, module.codebook.grad


def test_the_commitment_weighs_the_term_that_moves_the_encoder():
    none_z, none_codebook = loss_gradients(0.0)
    low_z, low_codebook = loss_gradients(0.25)
    high_z, high_codebook = loss_gradients(1.0)
    assert not none_z.any()
    assert none_codebook.norm() > 0.01
    torch.testing.assert_close(4 * low_z, high_z)
    torch.testing.assert_close(low_codebook, none_codebook)
    torch.testing.assert_close(high_codebook, none_codebook)


def test_the_loss_is_the_squared_distance_to_the_code():
    module, z = quantizer(commitment=0.5), encoded()
    made = module(z)
    codes_ND = F.normalize(module.codebook, dim=-1)[made.tokens_Bhw.flatten()]
    torch.testing.assert_close(made.loss, 1.5 * (codes_ND - made.vectors_ND).square().sum(-1).mean())


def test_lookup_gives_the_decoder_what_training_gave_it():
    module = quantizer()
    made = module(encoded())
    assert len(made.tokens_Bhw.unique()) > 3
    torch.testing.assert_close(module.lookup(made.tokens_Bhw), made.z_BChw)


def test_the_length_of_a_code_means_nothing():
    module, z = quantizer(), encoded()
    before = module(z)
    with torch.no_grad():
        module.codebook *= torch.rand(16, 1) + 0.5
    after = module(z)
    assert torch.equal(after.tokens_Bhw, before.tokens_Bhw)
    torch.testing.assert_close(after.z_BChw, before.z_BChw)


def test_without_quantisation_the_unit_vectors_pass_and_the_codebook_learns_nothing():
    module, z = quantizer(), encoded()
    made = module(z, quantise=False)
    torch.testing.assert_close(made.z_BChw, module.project_out(F.normalize(module.project_in(z), dim=1)))
    assert made.loss == 0
    (made.z_BChw.sum() + made.loss).backward()
    assert module.codebook.grad is None or not module.codebook.grad.any()


def test_exactly_the_unused_codes_are_restarted():
    module, vectors_ND = quantizer(8), unit(50, 4)
    before = module.codebook.detach().clone()
    module.count(torch.bincount(torch.tensor([0, 3, 3, 5]), minlength=8))
    module.count(torch.bincount(torch.tensor([7, 7]), minlength=8))
    assert module.restart_dead(vectors_ND) == 4
    kept = torch.tensor([True, False, False, True, False, True, False, True])
    assert torch.equal(module.codebook[kept], before[kept])
    for code in module.codebook[~kept]:
        assert torch.isclose(vectors_ND, code, atol=0.06).all(-1).any()
        assert not (before == code).all(-1).any()


def test_nothing_is_restarted_where_all_codes_are_in_use():
    module = quantizer(8)
    before = module.codebook.detach().clone()
    module.count(torch.ones(8))
    assert module.restart_dead(unit(50, 4)) == 0
    assert torch.equal(module.codebook, before)


def test_a_codebook_started_from_vectors_lies_among_them():
    module, vectors_ND = quantizer(32), unit(10, 4)
    module.start_from(vectors_ND)
    cosines_KN = module.codebook @ vectors_ND.T
    assert (cosines_KN.max(-1).values > 0.99).all()
    assert len(cosines_KN.argmax(-1).unique()) > 5
    torch.testing.assert_close(module.codebook.norm(dim=-1), torch.ones(32))


def test_off_the_sphere_the_loss_is_taming_s_with_the_weight_on_the_commitment_or_as_legacy_on_the_code():
    for legacy in (False, True):
        module, z = quantizer(unit_codes=False, legacy=legacy), encoded()
        made = module(z)
        vectors = module.project_in(z).permute(0, 2, 3, 1)
        codes = module.codebook[made.tokens_Bhw]
        assert torch.equal(
            made.tokens_Bhw, torch.cdist(vectors.reshape(-1, 4), module.codebook).argmin(-1).view(2, 3, 5)
        )
        to_code, to_vector = (codes.detach() - vectors).square().mean(), (codes - vectors.detach()).square().mean()
        expected = to_code + 0.25 * to_vector if legacy else 0.25 * to_code + to_vector
        torch.testing.assert_close(made.loss, expected)
        grads = torch.autograd.grad(made.loss, (module.codebook, module.project_in.weight))
        wanted = torch.autograd.grad(expected, (module.codebook, module.project_in.weight))
        torch.testing.assert_close(grads, wanted)
