"""Photos of clothes, split in halves: the classes of one half train a small CLIP, the other half trains the generator.

    python examples/clothing.py split clothing_128.tar outputs/clothing
    python examples/clothing.py classes outputs/clothing outputs/clothing_clip/clip

`split` makes outputs/clothing/named and outputs/clothing/pictures with a table of captions beside each, and
prompts.txt, a class a line. Halves are drawn by photo, so that a garment of several photos may stand on both sides.
N photos, C classes, E embedding size
"""

import hashlib
import sys
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from clipgen.clip.frozen import load_clip
from clipgen.data.transforms import center_crop_resize, to_model_range
from data_prep.decode import decode

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


def classes(folder: Path, clip_folder: Path) -> None:
    """How often a CLIP names the class of a photo, of each half."""
    clip = load_clip(f"local-dir:{clip_folder}")
    names = (folder / "prompts.txt").read_text(encoding="utf-8").splitlines()
    text_CE = clip.encode_text(names)
    for side in SIDES:
        rows = [line.split("\t") for line in (folder / f"{side}.tsv").read_text(encoding="utf-8").splitlines()[1::2]]
        size = clip.identity.image_size
        pictures = [center_crop_resize(decode((folder / side / f).read_bytes(), 1 << 24), size) for f, _ in rows]
        pixels_NHWC = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        image_NE = torch.cat([clip.encode_image(to_model_range(part)) for part in pixels_NHWC.split(256)])
        wanted_N = torch.tensor([names.index(name) for _, name in rows])
        right_N = ((image_NE @ text_CE.T).argmax(1) == wanted_N).float()
        by_class = torch.stack([right_N[wanted_N == i].mean() for i in wanted_N.unique()]).mean()
        print(
            f"{side:<9} of {len(rows)} photos the class is named in {right_N.mean():.1%}, "
            f"with equal weight to each class in {by_class:.1%}   (chance {1 / len(names):.1%})"
        )


def main() -> None:
    commands = {"split": split, "classes": classes}
    if len(sys.argv) != 4 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))


if __name__ == "__main__":
    main()
