"""A style on the command line: its pictures are drawn with its word, and one sentence captions a folder."""

import numpy as np
from PIL import Image

from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.shapes.style import judge_style


def test_a_style_is_drawn_with_its_word_and_packed_with_a_sentence(clipgen, tmp_path, one_line):
    out, shards = tmp_path / "pictures", tmp_path / "shards"
    words = ("draw", "style=outline", "style_share=0.5", f"out={out}", "n=30", "captions=true")
    assert clipgen(*words).status == 0
    texts = {}
    for line in (tmp_path / "pictures.tsv").read_text().splitlines()[1:]:
        file, text = line.split("\t")
        texts[file] = text
        assert judge_style(np.asarray(Image.open(out / file))).outlined == text.endswith(", in outline"), text
    assert len(texts) == 30 and 5 < sum(text.endswith(", in outline") for text in texts.values()) < 25
    assert "skipped" in clipgen(*words).said
    assert "holds other pictures" in one_line(clipgen(*words, "style_share=1"))

    pack = ["prep", f"images={out}", f"shards={shards}", "prep.val_fraction=0", "prep.workers=1"]
    made = clipgen(*pack, f"captions={tmp_path / 'pictures.tsv'}", "prep.caption={}, by hand")
    assert made.status == 0, made.error
    found = [decode_captions(sample) for sample in ShardSet(shards, "train")]
    assert sorted(found) == sorted([f"{text}, by hand"] for text in texts.values())
    assert "caption" in one_line(clipgen(*pack, f"captions={tmp_path / 'pictures.tsv'}"))
