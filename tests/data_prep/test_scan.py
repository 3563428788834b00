"""A folder is listed whole, in one order, and never left."""

import os

import pytest
from PIL import Image

from clipgen.errors import UserError
from data_prep.scan import scan, walk


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name in ("b.png", "a/z.png", "a/b/c.v2.png", "a.png", ".hidden.png", ".git/x.png", "Thumbs.db", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name, "png")
    return root


def test_files_come_sorted_by_their_path(folder):
    listing = scan(folder)
    assert [file.path for file in listing.files] == ["a.png", "a/b/c.v2.png", "a/z.png", "b.png", "notes.txt"]
    assert listing.files[0].bytes == (folder / "a.png").stat().st_size
    assert (listing.hidden, listing.links) == (3, 0)


def test_links_are_not_followed_out_of_the_folder_nor_in_circles(folder, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "outside").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder)
    (folder / "nowhere").symlink_to("gone")
    (folder / "inside.png").symlink_to(folder / "a.png")
    listing = scan(folder)
    assert listing.links == 4
    assert "inside.png" in [file.path for file in listing.files]
    assert not any("out" in file.path for file in listing.files)


def test_a_pipe_is_not_opened(folder):
    os.mkfifo(folder / "pipe.png")
    assert "pipe.png" not in [file.path for file in scan(folder).files]


@pytest.mark.parametrize("name", ["new\nline.png", "\u202egnp.exe.png", "x" * 246 + ".png", "a b'\"\\.png"])
def test_hostile_names_are_just_names(folder, name):
    Image.new("RGB", (4, 4)).save(folder / name, "png")
    assert name in [file.path for file in walk(folder).files]


def test_names_that_are_no_utf8_are_listed(folder):
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    assert os.fsencode(walk(folder).files[-1].path) == b"\xff.png"


def test_each_kind_of_wrong_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="gone does not exist"):
        scan(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file"):
        scan(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no file in it"):
        scan(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"has 1 files but no image, the first is 'notes\.txt'"):
        scan(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").unlink()
    (tmp_path / "empty" / "link.png").symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match="1 links that lead elsewhere"):
        scan(tmp_path / "empty")
