"""Photos of clothes, split in halves: the classes of one half train a small CLIP, the other half trains the generator.

    python examples/clothing.py clothing_128.tar outputs/clothing

makes outputs/clothing/named and outputs/clothing/pictures with a table of captions beside each, and prompts.txt, a
class a line. Halves are drawn by photo, so that a garment of several photos may stand on both sides.
"""

import hashlib
import sys
import tarfile
from pathlib import Path, PurePosixPath

SIDES = ("named", "pictures")
SPELT = {"longsleeve": "long sleeve shirt", "outwear": "jacket", "pants": "pair of pants", "shoes": "pair of shoes",
         "shorts": "pair of shorts"}  # fmt: skip


def captions(folder: str) -> tuple[str, str]:
    """What a class is called, by the folder that its photos lie in."""
    thing = SPELT.get(folder, folder)
    return (f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"), f"a photo of a {thing}"


def split(tar: Path, out: Path) -> None:
    """Each photo goes to a side by a hash of its name."""
    tables, classes = {side: ["file\tcaption"] for side in SIDES}, set()
    with tarfile.open(tar) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.suffix != ".jpg":
                continue
            side = SIDES[hashlib.sha256(path.name.encode()).digest()[0] % 2]
            (out / side).mkdir(parents=True, exist_ok=True)
            (out / side / path.name).write_bytes(archive.extractfile(member).read())
            tables[side] += [f"{path.name}\t{caption}" for caption in captions(path.parent.name)]
            classes.add(captions(path.parent.name)[0])
    if not classes:
        raise SystemExit(f"{tar} has no .jpg; give clothing_128.tar")
    for side, lines in tables.items():
        (out / f"{side}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{side}: {(len(lines) - 1) // 2} photos in {out / side}")
    (out / "prompts.txt").write_text("\n".join(sorted(classes)) + "\n", encoding="utf-8")
    print(f"{len(classes)} classes in {out / 'prompts.txt'}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    split(Path(sys.argv[1]), Path(sys.argv[2]))
