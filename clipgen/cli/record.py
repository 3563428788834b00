"""What a stage folder says of itself: which settings and inputs it is from, and whether it is done.

The same settings and inputs again are skipped or continued; others set the old folder aside and start anew.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipgen.data.atomic import PREVIOUS, explained, fingerprint, write_json
from clipgen.data.lock import Claim
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
    beside: dict[str, Any] = field(default_factory=dict)  # precision, strategy, sampling: others begin nothing anew
    claims: list[Claim] = field(default_factory=list)  # what keeps other processes from the folder

    def release(self) -> None:
        for claim in self.claims:
            claim.release()

    @property
    def fingerprint(self) -> str:
        return fingerprint({"settings": self.settings, "inputs": self.inputs})

    @property
    def done(self) -> bool:
        return self.status == "done"

    def resumed(self, old: dict[str, Any]) -> "Record":
        self.status, self.seconds, self.peak_memory_mb = old["status"], old["seconds"], old["peak_memory_mb"]
        self.beside = old["beside"]
        return self

    def save(self) -> None:
        kept = ("stage", "status", "seconds", "peak_memory_mb", "settings", "inputs", "beside", "fingerprint")
        content = {k: getattr(self, k) for k in kept}
        write_json(self.folder / FILE, content)


def begin(folder: Path, stage: str, settings: dict[str, Any], inputs: dict[str, Any]) -> tuple[Record, list[str]]:
    """The record of `folder`, and what has changed since it was made: then it begins anew, the old one set aside.

    Where what is aside was made with the settings that are asked for now, the two change places instead.
    """
    settings, inputs = _plain(settings), _plain(inputs)
    record = Record(folder, stage, settings, inputs)
    aside, moving = (folder.with_name(folder.name + name) for name in (PREVIOUS, ".moving"))
    if moving.exists():  # a kill came between
        os.replace(moving, aside if folder.exists() else folder)
    old = _read(folder)
    if old is None:
        record.save()
        return record, []
    if old["fingerprint"] == record.fingerprint:
        return record.resumed(old), []
    was = {**old["settings"], "inputs": old["inputs"]}
    changes = describe_difference(was, {**settings, "inputs": inputs})
    with explained(folder):
        if (before := _read_aside(aside)) and before["fingerprint"] == record.fingerprint:
            os.replace(aside, moving)
            _set_aside(folder, aside)
            os.replace(moving, folder)
            return record.resumed(before), changes
        _set_aside(folder, aside)
    record.save()
    return record, changes


def _set_aside(folder: Path, aside: Path) -> None:
    """What has trained nothing does not take the place of what has."""
    if is_kept(folder):
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
    elif folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def is_kept(folder: Path) -> bool:
    """Whether there is anything in it to set aside; a link is to what a sweep shares, and keeps."""
    return not folder.is_symlink() and any(folder.glob("*.ckpt"))


def _read_aside(folder: Path) -> dict[str, Any] | None:
    """None also where it is broken: then it is worth no more than another one."""
    try:
        return _read(folder)
    except UserError:
        return None


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        kept = {k: content[k] for k in ("status", "seconds", "settings", "inputs", "fingerprint")}
        return kept | {"peak_memory_mb": content.get("peak_memory_mb"), "beside": content.get("beside", {})}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder / FILE} is not readable ({problem}); delete {folder} to train it again") from problem


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(tree, sort_keys=True))
