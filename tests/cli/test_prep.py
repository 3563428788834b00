"""`clipgen prep` as it is typed: what it says, what it refuses, and a second time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def prep(clipgen, pictures, tmp_path):
    """`clipgen prep` of the usual mixed folder into tmp_path/shards."""
    images = Path(shutil.copytree(pictures, tmp_path / "images"))
    return lambda *words: clipgen(
        "prep", f"images={images}", f"shards={tmp_path / 'shards'}", "prep.size=32", "prep.workers=1", *words
    )


def test_it_says_what_came_of_every_file_and_goes_on_with_new_ones(prep, tmp_path):
    table = tmp_path / "captions.jsonl"
    table.write_text('{"file": "photo 1.png", "caption": ["one", "two"]}\n{"file": "gone.png", "caption": "x"}\n')
    said = prep(f"captions={table}").said
    counts = json.loads((tmp_path / "shards" / "prep.json").read_text())
    assert counts["seen"] == counts["written"] + counts["duplicates"] + sum(counts["set_aside"].values())
    assert f"{counts['written']} of {counts['seen']} files" in said and "prep_report.html" in said
    assert "captions of 1 file match no image, the first is 'gone.png'" in said
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").glob("*.tar")}
    for i in range(3):
        Image.new("RGB", (40, 40), (i, 9, 9)).save(tmp_path / "images" / f"0 new {i}.png")
    shutil.copy(tmp_path / "images" / "0 new 0.png", tmp_path / "images" / "copy.png")
    said = prep(f"captions={table}").said
    assert f"{counts['written'] + 3} of {counts['seen'] + 4} files" in said and "1 duplicate" in said
    assert all((tmp_path / "shards" / name).read_bytes() == data for name, data in before.items())


def test_only_what_a_clip_finds_like_the_words(prep, one_line, tiny_clip_folder, tmp_path):
    clip = [f"clip.model=local-dir:{tiny_clip_folder}", "clip.pretrained=null", "trainer.device=cpu"]
    words = ["prep.clip_words=[a red circle,a blue ring]", "prep.max_bad_fraction=1"]
    assert prep(*clip, *words, "prep.clip_score=-1").status == 0
    assert "clip_score" not in json.loads((tmp_path / "shards" / "prep.json").read_text())["set_aside"]
    line = one_line(prep(*clip, *words, "prep.clip_score=1"))
    assert "prep.clip_score -1.0 → 1.0" in line
    line = one_line(prep(*clip, *words, "prep.clip_score=1", "replace=true"))
    assert "cannot be used" in line and "quarantine.jsonl" in line


@pytest.mark.parametrize(
    "words, says",
    [
        (["prep.background=nocolour"], "prep.background 'nocolour' is no colour"),
        (["prep.decoding=quick"], "prep.decoding 'quick' is unknown; take one of exact, close, fast"),
        (["prep.formats=[jpg,heic]"], "prep.formats: 'heic' is unknown; take some of jpg, png, webp, gif, bmp, tiff,"),
        (["prep.formats=[]"], "prep.formats: is empty; take some of jpg, png"),
        (["captions=sidecar"], "captions=sidecar: none of the 1 .txt files (the first is 'notes.txt') stands beside"),
        (["prep.max_aspect=0.5"], "prep.max_aspect is 0.5, but must be between 1"),
        (["captions=none.parquet"], "captions=none.parquet"),
    ],
)
def test_a_wrong_setting_is_one_line(prep, one_line, tmp_path, words, says):
    assert says in one_line(prep(*words))
    assert not (tmp_path / "shards").exists()


def test_a_picture_changed_in_place_is_told_when_asked(prep, one_line, tmp_path):
    assert prep("prep.formats=[png,jpg]").status == 0
    path = tmp_path / "images" / "photo 1.png"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert prep("prep.formats=[jpg,png]").status == 0, "nothing was asked"
    line = one_line(prep("prep.formats=[jpg,png]", "prep.check=true"))
    assert "a packed image is gone or changed, the first is 'photo 1.png'" in line and "replace=true" in line
    assert prep("prep.formats=[jpg,png]", "prep.check=true", "replace=true").status == 0
    assert prep("prep.formats=[jpg,png]", "prep.check=true").status == 0


PEAK = """
import re, sys
from pathlib import Path
from clipgen.cli.main import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""  # and not ru_maxrss, which is at least that of the process which started this one


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of one process")
def test_the_malformed_set_ends_in_time_and_in_a_gigabyte(shared_data, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(shared_data / "malformed.tar", tmp_path / "images")
    words = [f"images={tmp_path / 'images'}", f"shards={tmp_path / 'shards'}", "prep.min_size=1", "prep.workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "prep", *words, "prep.size=32"],
        capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) * 1024 < 1e9  # 0.8e9, more than half of which is torch
    counts = json.loads((tmp_path / "shards" / "prep.json").read_text())
    set_aside = (tmp_path / "shards" / "quarantine.jsonl").read_text().splitlines()
    assert counts["seen"] == counts["written"] + counts["duplicates"] + len(set_aside) > 728
    assert len(set_aside) == sum(counts["set_aside"].values()) and counts["written"] > 500
