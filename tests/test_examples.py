"""The examples' sides: what is asked for, or named, is nothing that the rest was trained on."""

import importlib.util
import io
import tarfile
from pathlib import Path

from PIL import Image

NAMES = [f"thing {i}" for i in range(40)]
TONES = ("", ", light skin tone", ", dark skin tone")


def example(name: str):
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_emoji_to_ask_for_are_set_aside_with_their_skin_tones(tmp_path, capsys):
    made, out = tmp_path / "made", tmp_path / "out"
    (made / "pictures").mkdir(parents=True)
    lines = ["file\tcaption"]
    for i, name in enumerate(name + tone for name in NAMES for tone in TONES):
        (made / "pictures" / f"{i}.png").write_bytes(name.encode())
        lines += [f"{i}.png\t{caption}" for caption in (name, f"an emoji of {name}", f"{name}, other")]
    (made / "pictures.tsv").write_text("\n".join(lines) + "\n")
    example("noto_emoji").ask(made, out)
    asked = (out / "asked.txt").read_text().splitlines()
    assert 4 <= len(asked) <= 16 and set(asked) < set(NAMES)
    kept = {path.read_text() for path in (out / "pictures").iterdir()}
    assert kept == {name + tone for name in NAMES if name not in asked for tone in TONES}
    rows = [line.split("\t") for line in (out / "pictures.tsv").read_text().splitlines()[1:]]
    assert len(rows) == 3 * len(kept) and all((out / "pictures" / file).is_file() for file, _ in rows)
    assert not any(caption == f"an emoji of {name}" for name in asked for _, caption in rows)
    assert f"{len(asked)} names" in capsys.readouterr().out


def test_a_photo_of_clothes_is_either_named_or_trained_on(tmp_path, capsys):
    with tarfile.open(tmp_path / "clothes.tar", "w") as archive:
        for i in range(40):
            name = f"clothes/train/{('outwear', 'dress', 'pants')[i % 3]}/{i}.jpg"
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    example("clothing").split(tmp_path / "clothes.tar", tmp_path / "out")
    sides = {side: {path.name for path in (tmp_path / "out" / side).iterdir()} for side in ("named", "pictures")}
    assert not sides["named"] & sides["pictures"] and len(sides["named"] | sides["pictures"]) == 40
    for side, files in sides.items():
        rows = [line.split("\t") for line in (tmp_path / "out" / f"{side}.tsv").read_text().splitlines()[1:]]
        assert {file for file, _ in rows} == files and len(rows) == 2 * len(files)
        by_class = {"outwear": "a jacket", "dress": "a dress", "pants": "a pair of pants"}
        for file, caption in rows[::2]:
            assert by_class[(tmp_path / "out" / side / file).read_text().split("/")[2]] == caption
    assert (tmp_path / "out" / "prompts.txt").read_text() == "a dress\na jacket\na pair of pants\n"
    assert "3 classes" in capsys.readouterr().out


def test_a_clip_of_clothes_is_asked_for_the_class_of_a_photo(tmp_path, capsys, tiny_clip_folder):
    folder = tmp_path / "out"
    for side in ("named", "pictures"):
        (folder / side).mkdir(parents=True)
        lines = ["file\tcaption"]
        for i in range(4):  # all alike, so that one class is right and the other is not
            Image.new("RGB", (32, 32), "red").save(folder / side / f"{i}.jpg")
            thing = "dress" if i == 3 else "hat"
            lines += [f"{i}.jpg\ta {thing}", f"{i}.jpg\ta photo of a {thing}"]
        (folder / f"{side}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "prompts.txt").write_text("a dress\na hat\n")
    example("clothing").classes(folder, tiny_clip_folder)
    named, pictures = capsys.readouterr().out.splitlines()
    for line, side in ((named, "named"), (pictures, "pictures")):
        assert line.startswith(side) and "of 4 photos" in line
        assert ("75.0%" in line or "25.0%" in line) and line.count("50.0%") == 2  # by class, and chance
