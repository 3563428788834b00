"""Pictures that are not square go the whole way."""

from PIL import Image


def test_a_generator_of_wide_pictures(clipgen, one_line, run_folder, tiny, tmp_path):
    words = [*tiny, f"shards={run_folder / 'shards'}", f"out={tmp_path}", "tokenizer.image_size=[16,32]"]
    for verb in (["train", "stage=vqgan"], ["encode", "encode.crops=10"], ["train", "stage=transformer"]):
        outcome = clipgen(*verb, *words)
        assert outcome.status == 0, outcome.error
    export = clipgen("export", f"run={tmp_path}", *(word for word in tiny if word.startswith("clip.")))
    assert export.status == 0, export.error
    model = tmp_path / "model"
    assert clipgen("sample", f"model={model}", "a red circle", "n=2", f"out={tmp_path / 'made'}").status == 0
    made = sorted((tmp_path / "made").rglob("*.png"))
    assert made
    assert (32, 16) in {Image.open(path).size for path in made}
    line = one_line(clipgen("evaluate", f"model={model}", "world=shapes", "device=cpu"))
    assert "world=shapes is judged on squares" in line and "16×32" in line
