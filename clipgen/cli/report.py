"""`clipgen report run=FOLDER`: one self-contained page of a run."""

from pathlib import Path

from clipgen.config import ReportConfig


def main(cfg: ReportConfig) -> None:
    from clipgen.evaluation.report import write_report

    print(f"report: {write_report(Path(cfg.run))}")
