"""Sampling: what is kept, what is drawn, and that an image depends on its own seed only."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipgen.transformer.model import Transformer
from clipgen.transformer.packed import prepared
from clipgen.transformer.sampling import Given, choices, draw, generate, guide, sample, scale_at

LOGITS = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()[:, [2, 0, 4, 1, 3]]  # probabilities .15 .5 .05 .2 .1
ALL = [0, 1, 2, 3, 4]


def kept(logits_BV=LOGITS, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> list[int]:
    p_BC, code_BC = choices(logits_BV, temperature, top_k, top_p, min_p)
    return sorted(code_BC[p_BC > 0].tolist())


@pytest.mark.parametrize(("top_k", "wanted"), [(0, ALL), (1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (5, ALL), (9, ALL)])
def test_top_k_keeps_the_k_best(top_k, wanted):
    assert kept(top_k=top_k) == wanted


@pytest.mark.parametrize(
    ("top_p", "wanted"),
    [(1.0, ALL), (0.9, [0, 1, 3, 4]), (0.8, [0, 1, 3]), (0.6, [1, 3]), (0.4, [1]), (1e-9, [1]), (0.0, [1])],
)
def test_top_p_keeps_the_fewest_that_reach_p_and_always_the_best(top_p, wanted):
    assert kept(top_p=top_p) == wanted


def test_top_p_counts_among_what_top_k_left():
    assert kept(top_k=2, top_p=0.72) == [1, 3]  # .5 of .7 is not .72
    assert kept(top_k=2, top_p=0.7) == [1]


@pytest.mark.parametrize(("min_p", "wanted"), [(0.0, ALL), (0.15, [0, 1, 3, 4]), (0.35, [1, 3]), (1.0, [1])])
def test_min_p_is_a_share_of_the_best(min_p, wanted):
    assert kept(min_p=min_p) == wanted
    assert kept(min_p=min_p, top_k=4) == [code for code in wanted if code != 2]
    assert kept(LOGITS * 100, temperature=100.0, min_p=min_p) == wanted  # of what the temperature made


def test_a_cluster_is_drawn_by_its_sum_and_then_a_code_of_it():
    """CogView2's two draws, as its released code makes them, have the probabilities of our one."""
    logits_BV = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))
    cluster_V = torch.randint(7, (30,), generator=torch.Generator().manual_seed(2))
    for temperature, top_k in ((1.0, 3), (1.15, 1), (0.5, 6)):
        p_BC, code_BC = choices(logits_BV, temperature, top_k, 1.0, 0.0, cluster_V)
        made_BV = torch.zeros_like(logits_BV).scatter(1, code_BC, p_BC)
        for logits_V, made_V in zip(logits_BV, made_BV, strict=True):
            p_V = (logits_V / temperature).softmax(-1)
            sum_N = torch.stack([p_V[cluster_V == n].sum() for n in range(7)])
            best = sum_N.topk(top_k).indices.tolist()
            wanted_V = torch.zeros(30)
            for n in best:
                of_cluster_V = (logits_V / temperature).masked_fill(cluster_V != n, float("-inf")).softmax(-1)
                wanted_V += sum_N[n] / sum_N[best].sum() * of_cluster_V
            torch.testing.assert_close(made_V, wanted_V, atol=1e-6, rtol=1e-5)


def test_near_duplicates_do_not_lose_to_a_single_code():
    logits_BV = torch.tensor([[0.3, 0.2, 0.2, 0.2, 0.1]]).log()
    cluster_V = torch.tensor([0, 1, 1, 1, 2])
    p_BC, code_BC = choices(logits_BV, 1.0, 1, 1.0, 0.0, cluster_V)
    assert code_BC[p_BC > 0].tolist() == [1, 2, 3]
    assert choices(logits_BV, 1.0, 2, 0.5, 0.0, cluster_V)[1][:, :2].tolist() == [[0, 1]]  # top-p comes after


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.35}])
def test_what_is_kept_keeps_its_share_and_rows_are_their_own(filters):
    options = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | filters
    p_BC, code_BC = choices(torch.cat([LOGITS, LOGITS.flip(-1)]), **options)
    p_BV = torch.zeros(2, 5).scatter(1, code_BC, p_BC)
    torch.testing.assert_close(p_BV[0], p_BV[1].flip(-1))
    shares = p_BV[0] / p_BV[0].sum()
    wanted = LOGITS[0].div(0.7).softmax(-1) * (shares > 0)
    torch.testing.assert_close(shares, wanted / wanted.sum())


def test_the_schedule_of_guidance():
    assert [scale_at(i, 4, 3.0, "constant") for i in range(4)] == [3.0] * 4
    grown = [scale_at(i, 100, 3.0, "power_cosine") for i in range(101)]
    assert grown[0] == 1.0 and grown[100] == pytest.approx(3.0) and grown == sorted(grown)
    assert grown[50] == pytest.approx(1 + 2 * (1 - math.cos(math.pi * 0.5**2.75)) / 2)


def test_guidance():
    conditional, null = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    assert torch.equal(guide(conditional, null, 1), conditional)
    assert torch.equal(guide(conditional, null, 0), null)
    assert torch.equal(guide(conditional, null, 3), torch.tensor([[2.0, 0.0]]))


def test_drawing_follows_the_distribution():
    p_V = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    uniform_B = (torch.arange(10_000) + 0.5) / 10_000
    counts = torch.bincount(draw(p_V.expand(10_000, -1), uniform_B), minlength=6)
    torch.testing.assert_close(counts / 10_000, p_V, atol=2e-4, rtol=0)


def test_what_has_probability_zero_is_never_drawn():
    p_BV = torch.zeros(3, 5)
    p_BV[:, 1], p_BV[:, 3] = 0.3, 0.7
    assert draw(p_BV, torch.tensor([0.0, 1 - 2**-24, 1.0])).tolist() == [1, 3, 3]
    rows, _ = choices(torch.randn(5000, 50), 1.0, 3, 0.8, 0.1)
    assert (rows.gather(1, draw(rows, torch.rand(5000))[:, None]) > 0).all()


def test_a_large_codebook_is_drawn_to_its_end():
    p_BV = torch.full((2, 65_536), 1 / 65_536)
    assert draw(p_BV, torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, 65_535]


def model() -> Transformer:
    torch.manual_seed(0)
    made = Transformer((3, 4), codebook_size=20, embed_dim=6, width=32, depth=2, heads=2, n_prefix=3).eval()
    torch.nn.init.normal_(made.head.weight, std=0.5)
    for block in made.blocks:
        for matrix in (block.attention.qkv.weight, block.attention.out.weight):
            torch.nn.init.normal_(matrix, std=0.2)  # so that a condition makes a difference
    torch.nn.init.normal_(made.conditioner.null_PD)
    return made


def model_of_one_pass() -> Transformer:
    made, plain = Transformer((3, 4), 20, 6, 32, 2, 2, n_prefix=3, gft=True).eval(), model()
    made.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(made.conditioner.beta.weight)
    return made


CONDITIONS = F.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(5)), dim=-1)
LEVELS = torch.full((3,), 0.9)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_image_does_not_depend_on_its_batch_mates(scale):
    network = model()
    together = generate(network, CONDITIONS, LEVELS, [7, 8, 9], scale)
    assert together.shape == (3, 3, 4)
    for i, seed in enumerate([7, 8, 9]):
        alone = generate(network, CONDITIONS[i : i + 1], LEVELS[:1], [seed], scale)
        assert torch.equal(alone[0], together[i])


def test_the_seed_decides():
    network, same = model(), CONDITIONS[:1].expand(3, -1)
    torch.manual_seed(1)
    first = generate(network, same, LEVELS, [7, 8, 7])
    torch.manual_seed(2)  # the global generator has no part in it
    assert torch.equal(generate(network, same, LEVELS, [7, 8, 7]), first)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])


def test_guidance_uses_the_null():
    network, seeds = model(), [7, 7, 7]
    unguided = generate(network, CONDITIONS, LEVELS, seeds, 1.0)
    assert not torch.equal(unguided[0], unguided[1])
    null = generate(network, CONDITIONS, LEVELS, seeds, 0.0)  # the null's logits only
    assert torch.equal(null[0], null[1])
    with torch.no_grad():
        network.conditioner.null_PD.neg_()
    assert torch.equal(generate(network, CONDITIONS, LEVELS, seeds, 1.0), unguided)
    assert not torch.equal(generate(network, CONDITIONS, LEVELS, seeds, 3.0), unguided)
    assert not torch.equal(generate(network, CONDITIONS, LEVELS, seeds, 0.0), null)


@torch.no_grad()
@pytest.mark.parametrize("greedy", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": 0.0}])
def test_greedy_sampling_takes_the_best_of_the_guided_logits(greedy):
    network = model()
    tokens_BL = generate(network, CONDITIONS, LEVELS, [1, 2, 3], 2.0, **greedy).flatten(1)
    conditional = network(tokens_BL, CONDITIONS, LEVELS)
    own_null = network.conditioner.null
    network.conditioner.forward = lambda condition_BE, level_B, *_: own_null(len(condition_BE))
    null = network(tokens_BL, CONDITIONS, LEVELS)
    assert torch.equal(guide(conditional, null, 2.0).argmax(-1), tokens_BL)


def test_a_high_temperature_forgets_the_logits():
    network = model()
    with torch.no_grad():
        network.head.weight.mul_(100)
    cold = generate(network, CONDITIONS[:1].expand(8, -1), LEVELS[:1].expand(8), range(8), temperature=0.01)
    hot = generate(network, CONDITIONS[:1].expand(8, -1), LEVELS[:1].expand(8), range(8), temperature=1e6)
    assert len(cold.flatten(1).unique(dim=0)) == 1
    assert len(hot.unique()) == 20


def test_each_token_is_told():
    told = []
    generate(model(), CONDITIONS, LEVELS, [1, 2, 3], on_token=lambda: told.append(1))
    assert len(told) == 12


def test_known_tokens_are_kept_and_the_rest_is_drawn_knowing_those_before():
    network = model()
    whole = generate(network, CONDITIONS, LEVELS, [7, 8, 9], 2.0).flatten(1)
    token_L = torch.randint(20, (12,), generator=torch.Generator().manual_seed(1))
    for first, second in ((0, 12), (5, 12), (5, 9), (3, 3)):  # what is drawn
        known_L = torch.ones(12, dtype=torch.bool)
        known_L[first:second] = False
        made = generate(network, CONDITIONS, LEVELS, [7, 8, 9], 2.0, given=Given(token_L, known_L)).flatten(1)
        assert torch.equal(made[:, known_L], token_L[known_L].expand(3, -1))
        if first == 0:
            assert torch.equal(made, whole)
    own = generate(network, CONDITIONS[:1], LEVELS[:1], [7], 2.0, given=Given(whole[0], torch.arange(12) < 5))
    assert torch.equal(own.flatten(), whole[0])  # the same past, the same seed: the same future
    hole_L = (torch.arange(12) < 4) | (torch.arange(12) > 7)
    filled = generate(network, CONDITIONS[:1], LEVELS[:1], [7], 2.0, given=Given(whole[0], hole_L))
    assert torch.equal(filled.flatten(), whole[0])


class Recorded(Transformer):
    """What a model of any order, or of guidance in one pass, is asked."""

    def step(self, x_BSD, cache, order_BL=None):
        self.asked.append((x_BSD.shape, order_BL))
        return super().step(x_BSD, cache, order_BL)


def test_a_model_of_any_order_is_shown_every_known_token_first():
    network = model()
    network.__class__, network.any_order, network.asked = Recorded, True, []
    known_L = torch.ones(12, dtype=torch.bool)
    known_L[[2, 7, 8]] = False
    token_L = torch.randint(20, (12,))
    made = generate(network, CONDITIONS, LEVELS, [7, 8, 9], 2.0, given=Given(token_L, known_L)).flatten(1)
    assert torch.equal(made[:, known_L], token_L[known_L].expand(3, -1)) and made.max() < 20 and made.min() >= 0
    assert [shape[1] for shape, _ in network.asked] == [network.n_prefix + 9, 1, 1]
    for _, order_BL in network.asked:
        assert order_BL.tolist() == [[0, 1, 3, 4, 5, 6, 9, 10, 11, 2, 7, 8]] * 6
    made = generate(network, CONDITIONS, LEVELS, [7, 8, 9], top_k=1, given=Given(token_L, known_L)).flatten(1)
    order_BL = order_BL[:3]
    best_BL = network(made, CONDITIONS, LEVELS, order_BL).argmax(-1)
    assert torch.equal(best_BL[:, 9:], made.gather(1, order_BL)[:, 9:])


def test_guidance_in_one_pass_is_told_to_the_model(monkeypatch):
    network = model()
    network.__class__, network.gft, network.asked = Recorded, True, []
    betas, forward = [], network.conditioner.forward
    monkeypatch.setattr(
        network.conditioner, "forward", lambda c, level, beta=None: betas.append(beta) or forward(c, level)
    )
    generate(network, CONDITIONS, LEVELS, [1, 2, 3], 4.0)
    assert [beta.tolist() for beta in betas] == [[0.25] * 3]
    assert all(shape[0] == 3 for shape, _ in network.asked)


@torch.no_grad()
def test_preference_is_what_two_uncached_passes_say():
    network = model()
    options = {"guidance_scale": 1.0, "temperature": 0.8, "top_k": 7}
    made = sample(network, CONDITIONS, LEVELS, [1, 2, 3], prefer=True, **options)
    assert torch.equal(made.token_Bhw, generate(network, CONDITIONS, LEVELS, [1, 2, 3], **options))
    token_BL = made.token_Bhw.flatten(1)

    def log_p() -> torch.Tensor:
        return -F.cross_entropy(network(token_BL, CONDITIONS, LEVELS).mT, token_BL, reduction="none").sum(1)

    conditional, own_null = log_p(), network.conditioner.null
    network.conditioner.forward = lambda condition_BE, *_: own_null(len(condition_BE))
    torch.testing.assert_close(made.preference_B, conditional - log_p(), atol=1e-4, rtol=0)
    assert made.preference_B.abs().min() > 0.01


@torch.no_grad()
def test_preference_of_a_model_told_its_guidance_is_without_guidance():
    network, seeds = model_of_one_pass(), [1, 2, 3]
    made = sample(network, CONDITIONS, LEVELS, seeds, 4.0, prefer=True)
    assert torch.equal(made.token_Bhw, generate(network, CONDITIONS, LEVELS, seeds, 4.0))
    assert not torch.equal(made.token_Bhw, generate(network, CONDITIONS, LEVELS, seeds))
    token_BL = made.token_Bhw.flatten(1)
    null_B = torch.ones(3, dtype=torch.bool)
    log_p, null_log_p = (
        -F.cross_entropy(network.outputs(token_BL, CONDITIONS, LEVELS, dropped_B=dropped_B)[1].mT, token_BL,
                         reduction="none").sum(1)
        for dropped_B in (~null_B, null_B)
    )  # fmt: skip
    torch.testing.assert_close(made.preference_B, log_p - null_log_p, atol=1e-4, rtol=0)


def test_a_negative_condition_takes_the_null_s_place():
    network, seeds = model(), [1, 2, 3]
    plain = generate(network, CONDITIONS, LEVELS, seeds, 3.0)
    other = generate(network, CONDITIONS, LEVELS, seeds, 3.0, negative_BE=CONDITIONS.flip(0))
    assert not torch.equal(plain, other)
    same = generate(network, CONDITIONS, LEVELS, seeds, 3.0, negative_BE=CONDITIONS)
    assert torch.equal(same, generate(network, CONDITIONS, LEVELS, seeds, 1.0))  # nothing to be led away from


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [
        (torch.float32, None, 1e-5), (torch.float32, "fp32", 1e-5), (torch.bfloat16, None, 0.02),
        (torch.bfloat16, "bf16", 0.1),
    ],
)  # fmt: skip
def test_cached_logits_are_the_uncached_ones(dtype, precision, tolerance):
    """Of the logits' spread; what is prepared for bf16 against the network in float32, as for sampling."""
    network = model()
    stepped = prepared(network, precision) if precision else network
    token_BL = torch.randint(20, (3, 12))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16 and not precision):
        whole_BLV = network(token_BL, CONDITIONS, LEVELS).float()
        cache = stepped.new_cache(3, dtype)
        steps = [stepped.step(stepped.conditioner(CONDITIONS, LEVELS).to(stepped.embed.weight.dtype), cache)]
        steps += [stepped.step(stepped.embed(token_BL[:, i : i + 1]), cache) for i in range(11)]
    difference = (torch.stack(steps, 1).float() - whole_BLV).abs().max() / whole_BLV.std()
    assert difference < tolerance and steps[0].dtype == dtype


def test_a_packed_model_is_a_copy_that_leaves_the_model_as_it_is():
    network = model()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copied = prepared(network)
    assert copied is not network and copied.place_LD is network.place_LD  # nothing but matrices is held twice
    generate(copied, CONDITIONS, LEVELS, [1, 2, 3])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network(torch.zeros(1, 12, dtype=torch.long), CONDITIONS[:1], LEVELS[:1]).sum().backward()
    assert network.head.weight.grad is not None
    half = prepared(network, "bf16")
    assert half.head.weight.dtype == torch.bfloat16 and network.head.weight.dtype == torch.float32
    assert half.conditioner is network.conditioner is not None
    assert generate(half, CONDITIONS, LEVELS, [1, 2, 3], 2.0).shape == (3, 3, 4)


def test_a_packed_image_has_the_same_logits_in_every_batch():
    """Widths at which torch's own products differ from batch to batch."""
    torch.manual_seed(0)
    plain = Transformer((4, 4), 512, 64, width=256, depth=2, heads=4).eval()
    torch.nn.init.normal_(plain.head.weight, std=0.2)
    torch.nn.init.normal_(plain.conditioner.null_PD)
    network = prepared(plain)
    prefix_BPD = torch.randn(33, network.n_prefix, 256)
    with torch.inference_mode():
        logits = {B: network.step(prefix_BPD[:B], network.new_cache(B)) for B in (1, 2, 3, 8, 33)}
        turns = {B: logits[B][:1] for B in logits}
    assert all(torch.equal(turn, turns[1]) for turn in turns.values())
    conditions, levels = F.normalize(torch.randn(8, 64), dim=-1), torch.full((8,), 0.9)
    together = generate(network, conditions, levels, range(8), 2.0)
    for i in range(8):
        assert torch.equal(generate(network, conditions[i : i + 1], levels[:1], [i], 2.0)[0], together[i])
