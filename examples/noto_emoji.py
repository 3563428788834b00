"""Noto emoji, split in halves: names of one half train a small CLIP, pictures of the other half train the generator.

    python examples/noto_emoji.py split noto_emoji.tar outputs/emoji
    python examples/noto_emoji.py retrieval outputs/emoji outputs/emoji_clip/clip
    python examples/noto_emoji.py steering outputs/emoji outputs/emoji/model
    python examples/noto_emoji.py ask outputs/emoji outputs/compare_emoji

`ask` sets a quarter of the second half aside: its names are asked for where only the rest was trained on. Emoji that
differ in skin tone or hair only stand on the same side. N pictures, E embedding size
"""

import csv
import hashlib
import io
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch

from clipgen.clip.frozen import load_clip
from clipgen.data.transforms import center_crop_resize, to_model_range
from clipgen.pipeline import ClipGen
from data_prep.decode import decode

SIDES = ("named", "pictures")


def split(tar: Path, out: Path) -> None:
    """`out`/named and `out`/pictures with a table of names beside each."""
    with tarfile.open(tar) as archive:
        members = {member.name: member for member in archive.getmembers() if member.isfile()}
        table = next(name for name in members if name.endswith("names.tsv"))
        text = archive.extractfile(members[table]).read().decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
        tables = {side: ["file\tcaption"] for side in SIDES}
        for row in rows:
            base = row["name"].split(":")[0]
            side = SIDES[hashlib.sha256(base.encode()).digest()[0] % 2]
            member = next((name for name in members if name.endswith("/" + row["file"])), None)
            if member is None:
                continue
            path = out / side / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(members[member]).read())
            name = row["name"].replace(":", ",")
            for caption in (name, f"an emoji of {name}", f"{name}, {row['subgroup'].replace('-', ' ')}"):
                tables[side].append(f"{row['file']}\t{caption}")
    for side, lines in tables.items():
        (out / f"{side}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{side}: {(len(lines) - 1) // 3} pictures in {out / side}")


def ask(folder: Path, out: Path) -> None:
    """`out`/pictures and their table without a quarter of the emoji of `folder`/pictures, whose names are asked.txt.

    Of names that differ in skin tone or hair only the plain one is asked for.
    """
    table = folder / "pictures.tsv"
    if not table.is_file():
        raise SystemExit(f"{table} does not exist; type first: python {sys.argv[0]} split noto_emoji.tar {folder}")
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    kept, asked = ["file\tcaption"], []
    for i in range(0, len(rows), 3):  # an emoji has three captions, its name first
        file, name = rows[i]
        base = name.split(",")[0]
        if hashlib.sha256(base.encode()).digest()[1] % 4 == 0:
            asked += [name] if name == base else []
            continue
        (out / "pictures").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "pictures" / file, out / "pictures" / file)
        kept += ["\t".join(row) for row in rows[i : i + 3]]
    (out / "pictures.tsv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (out / "asked.txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
    print(f"{(len(kept) - 1) // 3} pictures in {out / 'pictures'}, {len(asked)} names in {out / 'asked.txt'}")


def retrieval(folder: Path, clip_folder: Path) -> None:
    """How often a name of each half finds its own picture among that half's, against chance."""
    clip = load_clip(f"local-dir:{clip_folder}")
    for side in SIDES:
        names: dict[str, str] = {}
        for line in (folder / f"{side}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            file, caption = line.split("\t")
            names.setdefault(file, caption)
        size = clip.identity.image_size
        pictures = [center_crop_resize(decode((folder / side / f).read_bytes(), 1 << 24), size) for f in names]
        pixels_NHWC = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        image_NE = torch.cat([clip.encode_image(to_model_range(part)) for part in pixels_NHWC.split(256)])
        text_NE = clip.encode_text(list(names.values()))
        ranks_N = ((text_NE @ image_NE.T) > (text_NE * image_NE).sum(1, keepdim=True)).sum(1)
        n = len(names)
        for k in (1, 10, 100):
            share = float((ranks_N < k).float().mean())
            print(f"{side:<9} name → picture, among {n}: top-{k:<4}{share:7.2%}   (chance {k / n:.2%})")


def steering(folder: Path, model: Path, n: int = 4) -> None:
    """Does text steer? The kind (Unicode's subgroup) of the training picture nearest to a sample, against its prompt's.

    Prompts are the names of the generator's half, which neither it nor its CLIP was shown; nearest is by pixels.
    """
    pipeline = ClipGen.from_pretrained(model)
    rows = [line.split("\t") for line in (folder / "pictures.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    names, kinds = [caption for _, caption in rows[::3]], [caption.rpartition(", ")[2] for _, caption in rows[2::3]]
    size = pipeline.vqgan.image_size
    pictures = [center_crop_resize(decode((folder / "pictures" / f).read_bytes(), 1 << 24), size) for f, _ in rows[::3]]
    train_ND = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).flatten(1).float()
    images = pipeline.generate(names, n, seed=0)
    made_MD = torch.from_numpy(np.stack([np.asarray(image) for image in images])).flatten(1).float()
    nearest_M = torch.cat([torch.cdist(part, train_ND).argmin(1) for part in made_MD.split(500)]).numpy()
    wanted_M = np.repeat(np.arange(len(names)), n)
    shuffled_M = np.random.default_rng(0).permutation(nearest_M)
    kind_N = np.array(kinds)
    share, chance = ((kind_N[wanted_M] == kind_N[found_M]).mean() for found_M in (nearest_M, shuffled_M))
    own = (wanted_M == nearest_M).mean()
    print(f"{len(images)} samples of {len(names)} names; the training picture nearest to a sample is")
    print(f"of the name's kind in {share:.1%} (samples shuffled: {chance:.1%})")
    print(f"the named one itself in {own:.2%} (chance: {1 / len(names):.2%})")


def main() -> None:
    commands = {"split": split, "retrieval": retrieval, "steering": steering, "ask": ask}
    if len(sys.argv) != 4 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))


if __name__ == "__main__":
    main()
