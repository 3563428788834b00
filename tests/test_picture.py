"""Grids of images with labels."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from clipgen.picture import GAP, image_grid, shorten


def flat(colour, size: int = 8) -> np.ndarray:
    return np.full((size, size, 3), colour, np.uint8)


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 2, 3), (3, 4, 1)])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_size_of_a_grid(n, columns, rows, labelled):
    heading = 18 if labelled else 0
    sheet = image_grid([flat(RED)] * n, columns, ["words"] * rows if labelled else [], cell=20)
    assert sheet.size == (columns * (20 + GAP) + GAP, rows * (20 + GAP + heading) + GAP)


def test_images_stand_row_by_row():
    sheet = image_grid([flat(RED), flat(GREEN), flat(BLUE)], 2, cell=20)
    first, second = GAP + 10, 20 + 2 * GAP + 10
    assert [sheet.getpixel(at) for at in ((first, first), (second, first), (first, second))] == [RED, GREEN, BLUE]
    assert sheet.getpixel((second, second)) == (255, 255, 255)
    assert sheet.getpixel((GAP + 20 + 1, first)) == (255, 255, 255)  # between two of them


def test_a_label_stands_above_its_row():
    plain = np.asarray(image_grid([flat(RED)] * 2, 1, ["", ""], cell=60))
    worded = np.asarray(image_grid([flat(RED)] * 2, 1, ["", "words"], cell=60))
    changed = (plain != worded).any((1, 2)).nonzero()[0]
    assert len(changed) > 5
    top = GAP + 60 + GAP + 18
    assert top <= changed.min() and changed.max() < top + 18  # in the heading of the second row


def test_small_images_are_enlarged_without_blur():
    checks = np.zeros((4, 4, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    sheet = np.asarray(image_grid([checks], 1, cell=32))[GAP:-GAP, GAP:-GAP]
    assert np.array_equal(sheet, checks.repeat(8, 0).repeat(8, 1))


def test_large_images_are_made_smaller_with_care():
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[:, ::2] = 255
    sheet = np.asarray(image_grid([Image.fromarray(fine)], 1, cell=16))[GAP:-GAP, GAP:-GAP]
    assert abs(int(sheet.min()) - 127) < 20
    assert abs(int(sheet.max()) - 127) < 20


@pytest.mark.parametrize("text", ["", "short", "größe 赤い円", "a very long text " * 20])
def test_a_text_is_cut_where_it_does_not_fit(text):
    pen, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), ImageFont.load_default(13)
    cut = shorten(pen, text, 100, font)
    assert pen.textlength(cut, font=font) <= 100
    if cut != text:
        assert cut.endswith("…")
        assert text.startswith(cut[:-1])
        assert pen.textlength(text[: len(cut)] + "…", font=font) > 100  # not one letter more would have fitted
    else:
        assert len(text) < 50


def test_sheets_stand_beside_each_other_on_white():
    from clipgen.picture import beside

    page = beside([Image.new("RGB", (3, 5), "red"), Image.new("RGB", (4, 2), "blue")])
    assert page.size == (7, 5)
    colours = page.getpixel((0, 4)), page.getpixel((6, 1)), page.getpixel((6, 4))
    assert colours == ((255, 0, 0), (0, 0, 255), (255, 255, 255))
