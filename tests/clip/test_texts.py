"""Texts whose mean stands for the text side."""

import pytest

from clipgen.clip.texts import TEMPLATES, read_texts, reference_texts
from clipgen.errors import UserError


def test_a_clip_that_clipgen_trained_brings_its_captions(tiny_clip_folder):
    texts, source = reference_texts(f"local-dir:{tiny_clip_folder}")
    assert texts == ["a red circle", "a blue ring on white", "two black crosses"]
    assert source == "captions.txt of the CLIP"


@pytest.mark.parametrize("model", ["ViT-B-32-quickgelu", "local-dir:{}"])
def test_other_clips_get_words_in_templates(tmp_path, model):
    texts, source = reference_texts(model.format(tmp_path))
    assert source == "templates and words of the package"
    assert len(texts) > 1000
    assert len(texts) == len(set(texts))
    assert len(texts) % len(TEMPLATES) == 0
    assert all(text == text.strip() and "{" not in text and "\n" not in text for text in texts)
    nouns = texts[TEMPLATES.index("{}") :: len(TEMPLATES)]
    for noun in nouns:
        article, word = noun.split(" ", 1)
        assert article == ("an" if word[0] in "aeiou" else "a")


def test_ones_own_captions_come_first(tmp_path, tiny_clip_folder):
    path = tmp_path / "captions.txt"
    path.write_text("größer\n\n  a hat  \n赤い円\n", encoding="utf-8")
    assert reference_texts(f"local-dir:{tiny_clip_folder}", str(path)) == (["größer", "a hat", "赤い円"], str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"", "has no caption"),
        (b" \n\n", "has no caption"),
        (b"\xff\xfe", "UTF-8"),
        (b"file\tcaption\n1.png\ta cat\n", "is a table"),
    ],
)
def test_a_file_that_is_of_no_use(tmp_path, content, says):
    path = tmp_path / "captions.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        reference_texts("ViT-B-32", str(path))
    assert f"clip.captions={path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_mark_that_some_editors_put_first_is_no_letter(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(b"\xef\xbb\xbfa red circle\na blue ring\n")
    assert read_texts(path, "prompts") == ["a red circle", "a blue ring"]
