"""`clipgen report FOLDER`: one self-contained page of a run or a comparison."""

from pathlib import Path

from clipgen.config import ReportConfig


def main(cfg: ReportConfig) -> None:
    from clipgen.evaluation.compare_report import FILE, write_comparison
    from clipgen.evaluation.report import write_report

    folder = Path(cfg.run)
    print(f"report: {(write_comparison if (folder / FILE).is_file() else write_report)(folder)}")
