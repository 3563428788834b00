"""What a stage folder says of itself: which settings and inputs it is from, and whether it is done.

The same settings and inputs again are skipped or continued; others set the old folder aside and start anew.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgen.data.atomic import explained, fingerprint, write_json
from clipgen.data.manifest import describe_difference
from clipgen.errors import UserError

FILE = "stage.json"


@dataclass
class Record:
    """The state of one stage's folder; `status` is running or done."""

    folder: Path
    stage: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    status: str = "running"
    seconds: float = 0.0
    peak_memory_mb: float | None = None  # of the process, or of the GPU

    @property
    def fingerprint(self) -> str:
        return fingerprint({"settings": self.settings, "inputs": self.inputs})

    @property
    def done(self) -> bool:
        return self.status == "done"

    def save(self) -> None:
        kept = ("stage", "status", "seconds", "peak_memory_mb", "settings", "inputs", "fingerprint")
        content = {k: getattr(self, k) for k in kept}
        write_json(self.folder / FILE, content)


def begin(folder: Path, stage: str, settings: dict[str, Any], inputs: dict[str, Any]) -> tuple[Record, list[str]]:
    """The record of `folder`, and what has changed since it was made (then it begins anew, the old one set aside)."""
    settings, inputs = _plain(settings), _plain(inputs)
    record = Record(folder, stage, settings, inputs)
    old = _read(folder)
    if old is None:
        record.save()
        return record, []
    if old["fingerprint"] == record.fingerprint:
        record.status, record.seconds = old["status"], old["seconds"]
        record.peak_memory_mb = old["peak_memory_mb"]
        return record, []
    was = {**old["settings"], "inputs": old["inputs"]}
    changes = describe_difference(was, {**settings, "inputs": inputs})
    with explained(folder):
        aside = folder.with_name(folder.name + ".previous")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
    record.save()
    return record, changes


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        kept = {k: content[k] for k in ("status", "seconds", "settings", "inputs", "fingerprint")}
        return kept | {"peak_memory_mb": content.get("peak_memory_mb")}  # which earlier ones lack
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder / FILE} is not readable ({problem}); delete {folder} to train it again") from problem


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(tree, sort_keys=True))
