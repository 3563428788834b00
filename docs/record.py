"""The figures of a finished run → docs/results/NAME.json, with what made them.

python docs/record.py outputs/demo demo "make demo"
"""

import argparse
import datetime
import json
import subprocess
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def record(run: Path, command: str, date: str) -> dict:
    """{"command", "commit", "hardware", "date", "seeds", …, "figures": {name: {"mean", "sem", "n"}}} of one run."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "command": command,
        "commit": commit,
        "hardware": about["device"],
        "threads": about["threads"],
        "date": date,
        "versions": about["versions"],
        "python": about["python"],
        "seeds": [0],
        "figures": {name: {"mean": round(value, 4), "sem": None, "n": 1} for name, value in metrics.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="its folder, such as outputs/demo")
    parser.add_argument("name", help="of the file in docs/results")
    parser.add_argument("command", help="that made it")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    given = parser.parse_args()
    path = RESULTS / f"{given.name}.json"
    content = json.dumps(record(given.run, given.command, given.date), indent=2)
    path.write_text(content + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
