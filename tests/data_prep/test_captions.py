"""Captions are found where people keep them."""

import pytest
from PIL import Image

from clipgen.errors import UserError
from data_prep.captions import read_captions, sidecar_captions


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.tsv", 'a.png\ta red bird\na.png\tred, and a bird\nd/b.png\ta "dog"\n'),
        ("c.csv", 'file,caption\na.png,a red bird\na.png,"red, and a bird"\n./d/b.png,"a ""dog"""\n'),
        (
            "c.tsv",
            '\ufeffid\tname\tfile\n1\ta red bird\ta.png\n2\tred, and a bird\ta.png\n\n3\ta "dog"\td/b.png\n',
        ),
    ],
)
def test_a_table_gives_captions_by_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_captions(tmp_path / name) == {"a.png": ["a red bird", "red, and a bird"], "d/b.png": ['a "dog"']}


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("c.tsv", b"a.png\tfine\nb.png\n", "line 2: a file and a caption are needed"),
        ("c.csv", b"file,label\na.png,bird\n", "no column is called caption, only file, label"),
        ("c.csv", b"", "has no caption in it"),
        ("c.csv", b"a.png,\xff\xfe\n", "must be a table in UTF-8"),
        ("c.txt", b"a.png bird", r"neither \.csv nor \.tsv"),
    ],
)
def test_a_broken_table_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_captions(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        read_captions(tmp_path / "gone.csv")


def test_text_beside_an_image_is_its_caption(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("a.png", "d/b.v2.png", "alone.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "d" / "b.v2.txt").write_text("ein Vögelchen")
    (tmp_path / "readme.txt").write_text("no caption")
    assert sidecar_captions(tmp_path) == {"a.png": ["one", "two"], "d/b.v2.png": ["ein Vögelchen"]}
