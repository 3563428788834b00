"""A file is whole or absent."""

import errno
import json

import pytest

from clipgen.data.atomic import explained, fingerprint, replacing, sha256_file, write_json
from clipgen.errors import UserError


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "half" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_text("new")
        raise failure
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number, says", [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission")])
def test_what_a_user_can_mend_is_said_in_one_line(tmp_path, number, says):
    with pytest.raises(UserError, match=says) as raised, replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise OSError(number, "as the system says it")
    assert str(tmp_path / "file") in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_while_writing():
    with pytest.raises(UserError, match="disk is full"), explained("/dev/full"), open("/dev/full", "wb") as full:
        full.write(b"x")
        full.flush()


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_json(tmp_path / "file" / "below.json", {})


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(OSError, match="broken pipe"), replacing(tmp_path / "file"):
        raise OSError(errno.EPIPE, "broken pipe")


def test_json_and_names_of_content(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, "é"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, "é"]}
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    assert len(fingerprint({})) == 16
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf")
