"""Windows cover a picture, each token drawn by the window in whose middle it stands."""

import pytest
import torch

from clipgen.upscale.windows import cut, enlarge, parts


@pytest.mark.parametrize(
    ("side", "window", "wanted"),
    [
        (4, 4, [(0, 0, 4)]),
        (8, 4, [(0, 0, 3), (2, 3, 5), (4, 5, 8)]),
        (7, 4, [(0, 0, 3), (2, 3, 4), (3, 4, 7)]),
        (5, 4, [(0, 0, 2), (1, 2, 5)]),
        (3, 1, [(0, 0, 1), (1, 1, 2), (2, 2, 3)]),
        (5, 2, [(0, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 5)]),
    ],
)
def test_the_windows_of_a_side(side, window, wanted):
    assert parts(side, window) == wanted


@pytest.mark.parametrize("window", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("side", range(8, 24))
def test_every_token_has_one_window_that_sees_around_it(side, window):
    found = parts(side, window)
    assert [i for part in found for i in range(part.first, part.stop)] == list(range(side))
    for part in found:
        assert part.start <= part.first < part.stop <= part.start + window <= side
        for at_edge, room in (
            (part.first == 0, part.first - part.start), (part.stop == side, part.start + window - part.stop),
        ):  # fmt: skip
            assert at_edge or room >= window // 4


def test_a_window_knows_what_those_before_it_have_drawn_and_writes_its_part():
    small_Bhw = torch.arange(2 * 8 * 6).view(2, 8, 6)
    true_BHW = small_Bhw.repeat_interleave(2, 1).repeat_interleave(2, 2)
    seen = []

    def draw(number, small_BS, large_BL, known_L):
        right_BL = small_BS.view(2, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        assert torch.equal(large_BL[:, known_L], right_BL[:, known_L])
        seen.append((number, known_L.sum().item()))
        return right_BL

    assert torch.equal(enlarge(small_Bhw, (4, 4), draw), true_BHW)
    # 3 × 2 windows; the second knows two columns of six rows, those below two whole rows at least
    assert seen == [(0, 0), (1, 12), (2, 16), (3, 24), (4, 16), (5, 28)]


def test_a_window_is_cut_out_row_by_row():
    token_Bhw = torch.arange(24).view(1, 4, 6)
    assert cut(token_Bhw, 1, 2, (2, 3)).tolist() == [[8, 9, 10, 14, 15, 16]]
