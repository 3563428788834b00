"""The example of the emoji: what is asked for is nothing that the rest was trained on."""

import importlib.util
from pathlib import Path

NAMES = [f"thing {i}" for i in range(40)]
TONES = ("", ", light skin tone", ", dark skin tone")


def example():
    path = Path(__file__).parents[1] / "examples" / "noto_emoji.py"
    spec = importlib.util.spec_from_file_location("noto_emoji", path)
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
    example().ask(made, out)
    asked = (out / "asked.txt").read_text().splitlines()
    assert 4 <= len(asked) <= 16 and set(asked) < set(NAMES)
    kept = {path.read_text() for path in (out / "pictures").iterdir()}
    assert kept == {name + tone for name in NAMES if name not in asked for tone in TONES}
    rows = [line.split("\t") for line in (out / "pictures.tsv").read_text().splitlines()[1:]]
    assert len(rows) == 3 * len(kept) and all((out / "pictures" / file).is_file() for file, _ in rows)
    assert not any(caption == f"an emoji of {name}" for name in asked for _, caption in rows)
    assert f"{len(asked)} names" in capsys.readouterr().out
