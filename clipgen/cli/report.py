"""`clipgen report FOLDER`: one self-contained page of a run, a sweep or a comparison."""

from pathlib import Path

from clipgen.cli.steps import FILE as STEPS
from clipgen.tools import ReportConfig


def main(cfg: ReportConfig) -> None:
    from clipgen.errors import UserError
    from clipgen.evaluation.compare_report import FILE, write_comparison
    from clipgen.evaluation.report import write_report
    from clipgen.evaluation.sweep import is_sweep, write_page

    folder = Path(cfg.run)
    if (folder / STEPS).is_file() and not (folder / FILE).is_file():
        raise UserError(
            f"{folder} is a comparison of which no seed is done yet, so that there is nothing to show; the same "
            "`clipgen compare` goes on with it, and writes a page after each seed"
        )
    write = write_comparison if (folder / FILE).is_file() else write_page if is_sweep(folder) else write_report
    print(f"report: {write(folder)}")
