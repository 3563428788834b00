"""The figures of a finished run → docs/results/NAME.json, with what made them.

python docs/record.py outputs/demo demo
"""

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def record(run: Path) -> dict:
    """{"command", "commit", "hardware", "date", "seeds", …, "figures": {name: {"mean", "sem", "n"}}} of one run."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    config = (run / "config.yaml").read_text(encoding="utf-8").splitlines()
    seed = next(int(line.split()[1]) for line in config if line.startswith("seed:"))
    return {
        "command": about["command"],
        "commit": about["commit"],
        "hardware": about["device"],
        "threads": about["threads"],
        "date": about["started"][:10],
        "versions": about["versions"],
        "python": about["python"],
        "seeds": [seed],
        "figures": {name: {"mean": round(value, 4), "sem": None, "n": 1} for name, value in metrics.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="its folder, such as outputs/demo")
    parser.add_argument("name", help="of the file in docs/results")
    given = parser.parse_args()
    path = RESULTS / f"{given.name}.json"
    content = json.dumps(record(given.run), indent=2)
    path.write_text(content + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
