"""A step of fixed shapes draws what a step with a growing cache draws."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.paired.model import PairedTransformer
from clipgen.transformer.fixed import FixedStep
from clipgen.transformer.model import Transformer
from clipgen.transformer.packed import PackedLinear, prepared
from clipgen.transformer.sampling import Filters, Given, sample

SEEDS = range(5)
ASKED = [
    {},
    {"guidance_scale": 2.5, "guidance_schedule": "power_cosine", "prefer": True},
    {"top_k": 5, "top_p": 0.8, "min_p": 0.05, "temperature": 0.7, "guidance_scale": 2.0},
    {"cluster_V": torch.arange(20) % 6, "top_k": 3},
    {"given": Given(torch.arange(12), torch.arange(12) % 3 == 0)},
]


def transformer(**more) -> Transformer:
    torch.manual_seed(0)
    made = Transformer((3, 4), 20, 6, 32, 2, 2, n_prefix=3, **more).eval()
    torch.nn.init.normal_(made.head.weight)
    return made


def condition() -> tuple[torch.Tensor, torch.Tensor]:
    return F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), dim=-1), torch.full((5,), 0.9)


def once(model, compiled=False):
    """A step made when it is first asked for."""
    made = {}

    def fixed(*how):
        key = (*how[:3], how[3]._replace(cluster_V=None))
        made[key] = made.get(key) or FixedStep(model, *how, compiled=compiled)
        return made[key]

    return fixed


def check(model, asked, options, compiled=False):
    wanted, fixed = sample(model, *asked, SEEDS, **options), once(model, compiled)
    for _ in range(2):  # a used cache changes nothing
        found = sample(model, *asked, SEEDS, fixed=fixed, **options)
        assert torch.equal(found.token_Bhw, wanted.token_Bhw)
        if options.get("prefer"):
            torch.testing.assert_close(found.preference_B, wanted.preference_B, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", ASKED)
@pytest.mark.parametrize("more", [{}, {"style": "gpt2"}, {"any_order": True}, {"gft": True}])
def test_the_tokens_are_those_of_a_growing_cache(options, more):
    check(transformer(**more), condition(), options)


@pytest.mark.parametrize("more", [{}, {"pb_relax": True, "sandwich": True}, {"window": 4, "pivots": 3}])
def test_texts_with_padding_and_sparse_attention(more):
    torch.manual_seed(0)
    model = PairedTransformer((3, 4), 20, 30, 6, 32, 2, 2, **more).eval()
    torch.nn.init.normal_(model.head.weight)
    text_BP = model.layout.prefix([[1, 2], [3], [4, 5, 6, 7], [], [8, 9, 10, 11, 12, 13]])
    for options in ({"guidance_scale": 2.0}, {"prefix_boost": 1.4}):
        check(model, (text_BP, torch.ones(5)), options)


def test_numbers_out_of_reach_do_no_harm():
    """What is hidden has weight 0, so that it must not be NaN either, as after a batch of broken weights."""
    model = transformer()
    step = FixedStep(model, 5, 5, False, Filters(), compiled=False)
    for tensor in step.cache.buffers():
        tensor.fill_(torch.nan)
    found = sample(model, *condition(), SEEDS, fixed=lambda *_: step)
    assert torch.equal(found.token_Bhw, sample(model, *condition(), SEEDS).token_Bhw)


def test_half_precision_by_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        check(transformer(), condition(), {"guidance_scale": 2.0})


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_a_graph_calls_a_packed_layer_as_one_operator(rows, bias):
    packed, x = PackedLinear(torch.nn.Linear(6, 9, bias)), torch.randn(rows, 1, 6)
    graph = torch.compile(packed, backend="eager", fullgraph=True, dynamic=False)
    assert torch.equal(graph(x), packed(x))
    torch.library.opcheck(torch.ops.clipgen.packed_linear.default, (x[:, 0], packed.name))


@pytest.mark.slow
@pytest.mark.parametrize("options", ASKED)
@pytest.mark.parametrize("made", [lambda model: model, prepared], ids=["as it is", "packed"])
def test_compiled(options, made):
    check(made(transformer()), condition(), options, compiled=True)
