"""Captions as pieces: the same each time, bounded by the captions, and never a pickle."""

import pytest

from clipgen.errors import UserError
from clipgen.paired.text import Text

CAPTIONS = ["a red circle on blue", "a blue circle on white", "there is a small black cross", "a green ring"] * 5


def test_the_same_captions_give_the_same_pieces():
    one, two = Text.train(CAPTIONS, 50_000), Text.train(CAPTIONS, 50_000)
    assert one.content == two.content and one.sha256 == two.sha256
    assert Text.train([*CAPTIONS, "a yellow triangle"] * 3, 50_000).sha256 != one.sha256


def test_the_vocabulary_is_bounded_by_the_data_and_by_what_is_asked():
    text = Text.train(CAPTIONS, 50_000)
    words = {f"▁{word}" for caption in CAPTIONS for word in caption.split()}
    parts = {word[i:k] for word in words for i in range(len(word)) for k in range(i + 1, len(word) + 1)}
    assert {text.pieces.IdToPiece(i) for i in range(1, len(text))} <= parts
    assert len(parts) < 200
    assert len(Text.train(CAPTIONS, 26)) <= 26
    assert all(0 < piece < len(text) for piece in text.encode(CAPTIONS[:4])[0])


def test_a_word_that_captions_have_is_one_piece():
    text = Text.train(CAPTIONS, 50_000)
    assert [len(own) for own in text.encode(CAPTIONS)] == [len(caption.split()) for caption in CAPTIONS]
    assert len(text.encode(["a redgreen circle"])[0]) > 3


def test_a_text_comes_back_in_lower_case_and_what_is_new_is_one_number():
    text = Text.train(CAPTIONS, 100)
    assert text.pieces.Decode(text.encode(["A RED circle on blue"])[0]) == "a red circle on blue"
    assert text.encode([""]) == [[]]
    assert [0 in own for own in text.encode(["a small red ring", "a ζ ring"])] == [False, True]


def test_it_is_kept_in_a_file(tmp_path):
    text = Text.train(CAPTIONS, 100)
    text.save(tmp_path / "text.model")
    assert Text.load(tmp_path / "text.model").encode(CAPTIONS) == text.encode(CAPTIONS)
    with pytest.raises(UserError, match="cannot be read"):
        Text.load(tmp_path / "other.model")
    (tmp_path / "other.model").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(UserError, match="no model of SentencePiece"):
        Text.load(tmp_path / "other.model")


def test_fewer_pieces_than_letters_are_refused():
    with pytest.raises(UserError, match=r"paired\.vocab_size"):
        Text.train(CAPTIONS, 5)
