"""Every file of a folder is seen, and the folder is never left."""

import os

import pytest
from PIL import Image

from clipgen.errors import UserError
from data_prep.scan import PassedOver, require_images, walk


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name in ("b.png", "a/z.png", "a/b/c.v2.png", "a.png", ".hidden.png", ".git/x.png", "Thumbs.db", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name, "png")
    return root


def paths(folder, reason=None) -> set[str]:
    return {file.path for file in walk(folder) if file.reason == reason}


def test_every_file_is_seen(folder):
    assert paths(folder) == {"a.png", "a/b/c.v2.png", "a/z.png", "b.png", "notes.txt"}
    assert paths(folder, "hidden") == {".hidden.png", ".git/x.png", "Thumbs.db"}
    assert {file.bytes for file in walk(folder)} == {(folder / "a.png").stat().st_size}


def test_links_are_not_followed_out_of_the_folder_nor_in_circles(folder, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "outside").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder)
    (folder / "nowhere").symlink_to("gone")
    (folder / "inside.png").symlink_to(folder / "a.png")
    over = PassedOver()
    seen = {file.path for file in walk(folder, over)}
    assert over == PassedOver(links=4)
    assert "inside.png" in seen and not any("out" in path for path in seen)


def test_a_pipe_is_not_opened(folder):
    os.mkfifo(folder / "pipe.png")
    over = PassedOver()
    assert "pipe.png" not in {file.path for file in walk(folder, over)} and over.special == 1


@pytest.mark.parametrize("name", ["new\nline.png", "\u202egnp.exe.png", "x" * 246 + ".png", "a b'\"\\.png"])
def test_hostile_names_are_just_names(folder, name):
    Image.new("RGB", (4, 4)).save(folder / name, "png")
    assert name in paths(folder)


def test_names_that_are_no_utf8_are_listed(folder):
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    assert b"\xff.png" in {os.fsencode(path) for path in paths(folder)}


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("a/b/"[:-1]):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"a/b.* cannot be listed \(Permission denied\)"):
        list(walk(folder))


def test_each_kind_of_wrong_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="gone does not exist"):
        require_images(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file"):
        require_images(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no file in it"):
        require_images(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"has 1 files but no image, the first is 'notes\.txt'"):
        require_images(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").unlink()
    (tmp_path / "empty" / "link.png").symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match="1 links that lead elsewhere"):
        require_images(tmp_path / "empty")
