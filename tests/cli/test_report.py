"""`clipgen report`: which page a folder gets."""


def test_a_comparison_is_rendered_again_by_its_folder_alone(clipgen, comparison, read_page, tmp_path):
    folder = tmp_path / "compare, demo"
    comparison.write(folder, prompts=1, each=1)
    outcome = clipgen("report", folder)
    assert outcome.status == 0 and f"report: {folder}/report.html" in outcome.said
    assert "Main table: at equal training cost" in read_page(folder / "report.html").text


def test_a_broken_comparison_is_told_in_a_line(clipgen, one_line, tmp_path):
    (tmp_path / "compare.json").write_text("{")
    assert "compare.json is no JSON" in one_line(clipgen("report", f"run={tmp_path}"))


def test_a_comparison_before_its_first_seed_is_told_in_a_line(clipgen, one_line, tmp_path):
    (tmp_path / "steps.json").write_text("{}")
    assert "no seed is done yet" in one_line(clipgen("report", f"run={tmp_path}"))
    assert not (tmp_path / "report.html").exists()
