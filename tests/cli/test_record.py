"""A stage's folder is skipped, continued, or set aside, by what its stage.json says."""

import errno
import json

import pytest

from clipgen.cli.record import FILE, begin
from clipgen.errors import UserError

SETTINGS = {"tokenizer": {"channels": 32, "multipliers": (1, 2)}, "seed": 0}
INPUTS = {"images": "abc", "clip": None}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vqgan"


def test_a_new_folder_is_running(folder):
    record, changes = begin(folder, "vqgan", SETTINGS, INPUTS)
    assert not record.done and record.seconds == 0 and changes == []
    content = json.loads((folder / FILE).read_text())
    assert content["stage"] == "vqgan" and content["status"] == "running"
    assert content["settings"]["tokenizer"]["multipliers"] == [1, 2] and content["inputs"] == INPUTS


def test_the_same_again_continues_with_its_time_and_its_files(folder):
    record, _ = begin(folder, "vqgan", SETTINGS, INPUTS)
    record.seconds = 12.5
    record.save()
    (folder / "last.ckpt").write_bytes(b"weights")
    record, changes = begin(folder, "vqgan", SETTINGS, INPUTS)
    assert not record.done and record.seconds == 12.5 and changes == []
    assert (folder / "last.ckpt").read_bytes() == b"weights"


def test_what_is_done_stays_done_in_any_order_of_keys(folder):
    record, _ = begin(folder, "vqgan", SETTINGS, INPUTS)
    record.status = "done"
    record.save()
    written = (folder / FILE).stat().st_mtime_ns
    record, changes = begin(folder, "vqgan", dict(reversed(SETTINGS.items())), dict(reversed(INPUTS.items())))
    assert record.done and changes == [] and (folder / FILE).stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "settings, inputs, says",
    [
        ({**SETTINGS, "seed": 1}, INPUTS, ["seed 0 → 1"]),
        ({**SETTINGS, "tokenizer": {"channels": 64, "multipliers": [1, 2]}}, INPUTS, ["tokenizer.channels 32 → 64"]),
        ({**SETTINGS, "tokenizer": {"multipliers": [1, 2]}}, INPUTS, ["tokenizer.channels 32 → (not set)"]),
        ({**SETTINGS, "new": 3}, INPUTS, ["new (not set) → 3"]),
        (SETTINGS, {"images": "xyz", "clip": None}, ["inputs.images abc → xyz"]),
        ({**SETTINGS, "seed": 1}, {"images": "abc", "clip": "c"}, ["seed 0 → 1", "inputs.clip None → c"]),
    ],
)
def test_a_change_is_named_and_the_old_folder_set_aside(folder, settings, inputs, says):
    record, _ = begin(folder, "vqgan", SETTINGS, INPUTS)
    record.status, record.seconds = "done", 9.0
    record.save()
    (folder / "last.ckpt").write_bytes(b"old")
    record, changes = begin(folder, "vqgan", settings, inputs)
    assert changes == says and not record.done and record.seconds == 0
    assert [path.name for path in folder.iterdir()] == [FILE]
    aside = folder.with_name("vqgan.previous")
    assert (aside / "last.ckpt").read_bytes() == b"old" and json.loads((aside / FILE).read_text())["status"] == "done"


def test_only_the_last_folder_is_kept_aside(folder):
    for seed in range(3):
        begin(folder, "vqgan", {"seed": seed}, INPUTS)
        (folder / "last.ckpt").write_text(str(seed))
    aside = folder.with_name("vqgan.previous")
    assert (aside / "last.ckpt").read_text() == "1" and (folder / "last.ckpt").read_text() == "2"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["vqgan", "vqgan.previous"]


def test_the_settings_of_before_bring_back_what_they_trained(folder):
    for seed in (0, 1):
        record, _ = begin(folder, "vqgan", {"seed": seed}, INPUTS)
        (folder / "last.ckpt").write_text(str(seed))
        record.status, record.seconds = "done", 5.0 + seed
        record.save()
    record, changes = begin(folder, "vqgan", {"seed": 0}, INPUTS)
    assert record.done and record.seconds == 5 and changes == ["seed 1 → 0"]
    assert (folder / "last.ckpt").read_text() == "0"
    assert (folder.with_name("vqgan.previous") / "last.ckpt").read_text() == "1"
    assert begin(folder, "vqgan", {"seed": 1}, INPUTS)[0].seconds == 6
    assert sorted(path.name for path in folder.parent.iterdir()) == ["vqgan", "vqgan.previous"]


@pytest.mark.parametrize("there", ["both", "one"])
def test_a_kill_while_they_change_places_loses_neither(folder, there):
    for seed in (0, 1):
        begin(folder, "vqgan", {"seed": seed}, INPUTS)
        (folder / "last.ckpt").write_text(str(seed))
    aside, moving = folder.with_name("vqgan.previous"), folder.with_name("vqgan.moving")
    aside.rename(moving)
    if there == "one":
        folder.rename(aside)
    for seed in (0, 1):
        begin(folder, "vqgan", {"seed": seed}, INPUTS)
        assert (folder / "last.ckpt").read_text() == str(seed) and (aside / "last.ckpt").read_text() == str(1 - seed)
    assert not moving.exists()


def test_a_link_or_a_broken_record_aside_is_no_hindrance(folder):
    begin(folder.with_name("shared"), "vqgan", {"seed": 0}, INPUTS)
    (folder.with_name("shared") / "last.ckpt").write_text("0")
    folder.symlink_to("shared")
    folder.with_name("vqgan.previous").mkdir()
    (folder.with_name("vqgan.previous") / FILE).write_text("{")
    begin(folder, "vqgan", {"seed": 1}, INPUTS)
    assert not folder.is_symlink() and (folder.with_name("shared") / "last.ckpt").read_text() == "0"


def test_a_mistake_that_trained_nothing_displaces_nothing(folder):
    for seed in (0, 1):
        begin(folder, "vqgan", {"seed": seed}, INPUTS)
        (folder / "last.ckpt").write_text(str(seed))
    for seed in (2, 3):
        begin(folder, "vqgan", {"seed": seed}, INPUTS)  # ended before its first checkpoint
    assert (folder.with_name("vqgan.previous") / "last.ckpt").read_text() == "1"
    record, _ = begin(folder, "vqgan", {"seed": 1}, INPUTS)
    assert (folder / "last.ckpt").read_text() == "1" and not record.done


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "done"}', "\x00\x01"])
def test_a_broken_record_is_named_and_nothing_is_touched(folder, content):
    folder.mkdir()
    (folder / FILE).write_text(content)
    (folder / "last.ckpt").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"stage\.json is not readable .*delete .*vqgan to train it again") as raised:
        begin(folder, "vqgan", SETTINGS, INPUTS)
    assert "\n" not in str(raised.value) and (folder / "last.ckpt").read_bytes() == b"weights"


def test_a_record_that_is_no_text_is_named(folder):
    folder.mkdir()
    (folder / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"stage\.json is not readable"):
        begin(folder, "vqgan", SETTINGS, INPUTS)


def test_a_file_where_the_folder_should_be_is_named(folder):
    folder.write_text("a file")
    with pytest.raises(UserError, match="vqgan"):
        begin(folder, "vqgan", SETTINGS, INPUTS)


def test_a_full_disk_leaves_the_old_record(folder, monkeypatch):
    record, _ = begin(folder, "vqgan", SETTINGS, INPUTS)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clipgen.data.atomic._flush", full)
    record.status = "done"
    with pytest.raises(UserError, match="the disk is full"):
        record.save()
    assert json.loads((folder / FILE).read_text())["status"] == "running"
    assert [path.name for path in folder.iterdir()] == [FILE]
