"""manifest.json: which shards exist, what they hold, who made them. It is written last.

A shard that is not in it does not exist. The file is a superset of WebDataset's `wids` index, so that other tools
read it as well.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipgen.data.atomic import fingerprint, sha256_file, write_json
from clipgen.errors import UserError

FILE_NAME = "manifest.json"
MADE_BY = {"images": "clipgen prep", "latents": "clipgen encode"}  # kind → the command that makes it

_PLAIN_NAME = re.compile(r"\w[\w.-]*\.tar", re.ASCII)  # no folder, no `pipe:`: a manifest may come from anywhere


@dataclass(frozen=True)
class Shard:
    """One tar file: how many samples and bytes it has, and the sha256 of these bytes."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass
class Manifest:
    """The shards of one folder. `kind` is images or latents; `made_by` are settings, `facts` are counts."""

    kind: str
    shards: list[Shard]
    made_by: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path, kind: str | None = None) -> "Manifest":
        """Read the manifest of `folder`; UserError where there is none, it is broken, or it is not of `kind`."""
        path = Path(folder) / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            shards = [
                Shard(entry["url"], entry["split"], int(entry["nsamples"]), int(entry["filesize"]), entry["sha256"])
                for entry in content["shardlist"]
            ]
            manifest = cls(content["kind"], shards, content["made_by"], content["facts"])
        except (FileNotFoundError, NotADirectoryError) as error:
            command = MADE_BY.get(kind or "", "clipgen prep` or `clipgen encode")
            raise UserError(f"{path} does not exist: run `{command}` into that folder, to its end, first") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is not a manifest of clipgen ({type(error).__name__}: {error}); make the folder again"
            ) from error
        for shard in shards:
            if not _PLAIN_NAME.fullmatch(shard.name):
                raise UserError(f"{path} names a shard {shard.name!r}, which is not a plain file name; refusing it")
        if kind is not None and manifest.kind != kind:
            raise UserError(
                f"{folder} holds {manifest.kind}, but {kind} are needed here: give the folder that "
                f"`{MADE_BY.get(kind, kind)}` made"
            )
        return manifest

    @staticmethod
    def exists(folder: str | Path) -> bool:
        """Whether `folder` was finished."""
        return (Path(folder) / FILE_NAME).is_file()

    def save(self, folder: str | Path) -> None:
        """Write the manifest, atomically. From then on its shards exist."""
        content = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": self.kind,
            "kind": self.kind,
            "made_by": self.made_by,
            "facts": self.facts,
            "shardlist": [
                {
                    "url": shard.name,
                    "nsamples": shard.samples,
                    "filesize": shard.bytes,
                    "sha256": shard.sha256,
                    "split": shard.split,
                }
                for shard in self.shards
            ],
        }
        write_json(Path(folder) / FILE_NAME, content)

    def of_split(self, split: str) -> list[Shard]:
        """The shards of a split, in order."""
        return [shard for shard in self.shards if shard.split == split]

    def samples(self, split: str) -> int:
        """How many samples a split has."""
        return sum(shard.samples for shard in self.of_split(split))

    @property
    def content(self) -> str:
        """A short name for the bytes of all shards: what latents made from them record."""
        return fingerprint([[shard.name, shard.sha256] for shard in self.shards])

    def problems(self, folder: str | Path, deep: bool = False) -> list[str]:
        """One line per shard that is missing, has another size or, when `deep`, another sha256."""
        found = []
        for shard in self.shards:
            path = Path(folder) / shard.name
            if not path.is_file():
                found.append(f"shard {path} is missing, but the manifest has it with {shard.samples} samples")
            elif (size := path.stat().st_size) != shard.bytes:
                found.append(f"shard {path} has {size} bytes, but the manifest says {shard.bytes}")
            elif deep and (sha256 := sha256_file(path)) != shard.sha256:
                found.append(f"shard {path} has sha256 {sha256[:12]}…, but the manifest says {shard.sha256[:12]}…")
        return found

    def check(self, folder: str | Path, deep: bool = False) -> None:
        """Raise a UserError naming the first shard that is not as the manifest says; `deep` reads all bytes."""
        if found := self.problems(folder, deep):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(
                f"{found[0]}{more}; bring the file back, let `clipgen verify` with repair=true make it again, or run "
                f"`{MADE_BY.get(self.kind, self.kind)}` again with replace=true"
            )


def describe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the settings in which two `made_by` differ, as `prep.size 64 → 32`; fingerprints follow and are left out."""
    old_flat, new_flat = dict(_flat(old)), dict(_flat(new))
    names = [*old_flat, *(name for name in new_flat if name not in old_flat)]
    return [
        f"{name} {_show(old_flat, name)} → {_show(new_flat, name)}"
        for name in names
        if old_flat.get(name, _ABSENT) != new_flat.get(name, _ABSENT) and name.rpartition(".")[2] != "fingerprint"
    ]


_ABSENT = object()


def _show(flat: dict[str, Any], name: str) -> str:
    return str(flat[name]) if name in flat else "(not set)"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, list(value) if isinstance(value, tuple) else value))
    return flat
