"""The Transformer that enlarges: what a token knows, the same with a cache, and what it takes over from others."""

import pytest
import torch

from clipgen.paired.model import PairedTransformer
from clipgen.transformer.model import Transformer
from clipgen.transformer.sampling import Given, generate
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscale.sampling import upscale

SHAPE = dict(width=32, depth=2, heads=2)
SMALL_BS = torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(1))
LARGE_BL = torch.randint(20, (3, 24), generator=torch.Generator().manual_seed(2))


def model(style: str = "modern", window=(2, 3), **more) -> UpscaleTransformer:
    torch.manual_seed(0)
    network = UpscaleTransformer(window, 20, **SHAPE, style=style, **more).eval()
    torch.nn.init.normal_(network.head.weight)
    return network


@pytest.mark.parametrize("style", ["modern", "gpt2"])
def test_a_token_knows_the_small_window_and_the_tokens_before_it(style):
    network = model(style)
    logits_BLV = network(LARGE_BL, SMALL_BS)
    assert logits_BLV.shape == (3, 24, 20) and network.grid == (4, 6)
    changed_BL = LARGE_BL.clone()
    changed_BL[:, 10] = (changed_BL[:, 10] + 1) % 20
    differs_L = (network(changed_BL, SMALL_BS) != logits_BLV).any(-1).any(0)
    assert differs_L.tolist() == [i > 10 for i in range(24)]
    for place in range(6):
        other_BS = SMALL_BS.clone()
        other_BS[:, place] = (other_BS[:, place] + 1) % 20
        assert (network(LARGE_BL, other_BS) != logits_BLV).any(-1).all()


def test_a_small_token_stands_in_the_middle_of_the_four_that_it_becomes():
    network = model(window=(2, 3))
    angles_TF = torch.atan2(network.sin_TK, network.cos_TK)[:, 8:]  # below half a turn: small places
    rows_T, columns_T = angles_TF[:, 0], angles_TF[:, 4]  # the fastest turns, one radian a place
    large = [(row, column) for row in range(1, 5) for column in range(1, 7)]
    for i, (row, column) in enumerate((row, column) for row in range(2) for column in range(3)):
        four = [(r, c) for r, c in large if (r - 1) // 2 == row and (c - 1) // 2 == column]
        middle = [sum(each) / 4 for each in zip(*four, strict=True)]
        for angle, place in ((rows_T[i], middle[0]), (columns_T[i], middle[1])):
            assert torch.cos(angle - place) == pytest.approx(1, abs=1e-5)
    assert rows_T[6] == columns_T[6] == 0  # the begin


@pytest.mark.parametrize("style", ["modern", "gpt2"])
def test_sampling_with_a_cache_is_the_whole_pass(style):
    network = model(style, sandwich=style == "gpt2", pb_relax=style == "gpt2")
    made_BL = generate(network, SMALL_BS, None, [1, 2, 3], top_k=1).flatten(1).clone()
    assert torch.equal(network(made_BL, SMALL_BS).argmax(-1), made_BL)


def test_tokens_that_are_given_row_by_row_are_kept_and_known():
    network = model()
    known_L = torch.arange(24) % 6 < 2
    made_BL = generate(network, SMALL_BS, None, [1, 2, 3], top_k=1, given=Given(LARGE_BL, known_L)).flatten(1).clone()
    assert torch.equal(made_BL[:, known_L], LARGE_BL[:, known_L])
    assert torch.equal(network(made_BL, SMALL_BS).argmax(-1)[:, ~known_L], made_BL[:, ~known_L])


def test_a_picture_does_not_depend_on_its_batch_mates():
    network, small_Bhw = model(), torch.randint(20, (3, 4, 5), generator=torch.Generator().manual_seed(3))
    told = []
    together = upscale(network, small_Bhw, [5, 6, 7], on_window=lambda: told.append(1))
    assert together.shape == (3, 8, 10) and len(told) == 3 * 3
    assert torch.equal(upscale(network, small_Bhw[1:2], [6])[0], together[1])
    assert not torch.equal(upscale(network, small_Bhw[1:2], [8])[0], together[1])


def starts() -> list:
    torch.manual_seed(4)
    tokens = dict(grid=(4, 6), codebook_size=20)
    return [
        (Transformer(**tokens, embed_dim=8, **SHAPE), "modern"),
        (PairedTransformer(**tokens, pieces=7, text_length=5, **SHAPE), "modern"),
        (PairedTransformer(**tokens, pieces=7, text_length=5, **SHAPE, style="gpt2", sandwich=True), "gpt2"),
        (model(), "modern"),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_start_gives_its_codes_places_blocks_and_head(number):
    start, style = starts()[number]
    network = model(style, sandwich=style == "gpt2")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.normal_()
    network.begin_from(start.state_dict())
    own, given = network.state_dict(), start.state_dict()
    assert torch.equal(own["embed.weight"], given["embed.weight"][:20])
    for name in own.keys() - {"embed.weight"}:
        new = name in ("place_of_small_SD", "begin_D") and number != 3
        assert torch.equal(own[name], before[name] if new else given[name]), name
