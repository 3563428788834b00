"""`clipgen report FOLDER`: one self-contained page of a run, or of a sweep."""

from pathlib import Path

from clipgen.config import ReportConfig


def main(cfg: ReportConfig) -> None:
    from clipgen.evaluation.report import write_report
    from clipgen.evaluation.sweep import is_sweep, write_page

    folder = Path(cfg.run)
    print(f"report: {write_page(folder) if is_sweep(folder) else write_report(folder)}")
