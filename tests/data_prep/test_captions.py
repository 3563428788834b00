"""Captions are found where people keep them."""

import json

import pytest
from PIL import Image

from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.errors import UserError
from data_prep.captions import read_captions
from data_prep.pack import pack
from data_prep.settings import PackSettings

BIRDS = [("a.png", "a red bird"), ("a.png", "red, and a bird"), ("d/b.png", 'a "dog"')]


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.tsv", 'a.png\ta red bird\na.png\tred, and a bird\nd/b.png\ta "dog"\n'),
        ("c.csv", 'file,caption\na.png,a red bird\na.png,"red, and a bird"\n./d/b.png,"a ""dog"""\n'),
        (
            "c.tsv",
            '\ufeffid\tname\tfile\n1\ta red bird\ta.png\n2\tred, and a bird\ta.png\n\n3\ta "dog"\td/b.png\n',
        ),
        (
            "c.jsonl",
            '{"file": "a.png", "caption": ["a red bird", null, "red, and a bird"]}\n\n'
            '{"other": 1, "file_name": "d/b.png", "text": "a \\"dog\\" "}\n',
        ),
    ],
)
def test_a_table_gives_captions_by_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(read_captions(tmp_path / name)) == BIRDS


def test_a_parquet_gives_captions_by_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "c.parquet"
    rows = {"file": ["a.png", "d/b.png", "none.png"], "caption": [["a red bird", "red, and a bird"], ['a "dog"'], None]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    assert list(read_captions(path)) == BIRDS
    pyarrow.parquet.write_table(pyarrow.table({"file": ["a.png"], "label": ["bird"]}), path)
    with pytest.raises(UserError, match="no column is called caption, only file, label"):
        list(read_captions(path))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"c\.parquet cannot be read"):
        list(read_captions(path))


def test_half_a_character_is_no_reason_to_stop(tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps({"file": "a.png", "caption": "a \ud83d bird"}))
    assert list(read_captions(tmp_path / "c.jsonl")) == [("a.png", "a ? bird")]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("c.tsv", b"a.png\tfine\nb.png\n", "line 2: a file and a caption are needed"),
        ("c.csv", b"file,label\na.png,bird\n", "no column is called caption, only file, label"),
        ("c.csv", b"", "has no caption in it"),
        ("c.csv", b"a.png,\xff\xfe\n", "must be a table in UTF-8"),
        ("c.jsonl", b'{"file": "a.png", "caption": "x"}\n{"file"\n', "line 2: this is no JSON"),
        ("c.jsonl", b'{"file": "a.png", "label": "x"}\n', "no column is called caption"),
        ("c.jsonl", b'{"file": 7, "caption": "x"}\n', "line 1: file must be a text"),
        ("c.jsonl", b"[1]\n", "line 1: an object"),
        ("c.txt", b"a.png bird", r"none of \.csv, \.tsv"),
    ],
)
def test_a_broken_table_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        list(read_captions(tmp_path / name))
    with pytest.raises(UserError, match="does not exist"):
        list(read_captions(tmp_path / "gone.csv"))


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        (None, [["a bird", "a red bird"], []]),
        ("in the style of ink", [["a bird", "a red bird"], ["in the style of ink"]]),
        ("{}, in ink", [["a bird, in ink", "a red bird, in ink"], []]),
    ],
)
def test_one_sentence_for_all_pictures(tmp_path, caption, wanted):
    (tmp_path / "in").mkdir()
    for name, level in (("a", 10), ("b", 200)):
        Image.new("RGB", (20, 20), (level, 0, 0)).save(tmp_path / "in" / f"{name}.png")
    captions = {"a.png": ["a bird", "a red bird"]}
    made = pack(tmp_path / "in", tmp_path / "out", PackSettings(val_fraction=0, caption=caption), captions=captions)
    assert [decode_captions(sample) for sample in ShardSet(tmp_path / "out", "train")] == wanted
    assert ("caption" in made.made_by["prep"]) == (caption is not None)


def test_an_empty_sentence_is_refused():
    with pytest.raises(UserError, match=r"prep\.caption is empty"):
        PackSettings(caption=" ")
