"""`mix=FILE.json`: texts and images with weights, a list of {"text" or "image": …, "weight": …}."""

import json
from pathlib import Path
from typing import Any

from clipgen.errors import UserError


def read_mix(file: str) -> list[tuple[str, str, float]]:
    """(text or image, what it is, weight) of each part; images are named from the folder of the file."""
    name = f"mix={file}"
    try:
        parts = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as problem:
        raise UserError(f"{name} cannot be read ({problem}); give a list such as {_EXAMPLE}") from problem
    if not isinstance(parts, list) or not parts:
        raise UserError(f"{name} is no list of parts; write it as {_EXAMPLE}")
    return [_part(part, f"{name}, part {number}", Path(file).parent) for number, part in enumerate(parts, 1)]


_EXAMPLE = '[{"text": "a red circle", "weight": 0.7}, {"image": "sky.png", "weight": 0.3}]'


def _part(part: Any, where: str, folder: Path) -> tuple[str, str, float]:
    kinds = {"text", "image"} & set(part) if isinstance(part, dict) else set()
    if len(kinds) != 1 or set(part) - kinds - {"weight"}:
        raise UserError(f"{where} has not one of text and image, and a weight; write it as in {_EXAMPLE}")
    kind, weight = kinds.pop(), part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) < 1e6 or weight == 0:
        raise UserError(f"{where} has weight {weight}; take a number other than 0 (below 0 leads away from it)")
    value = part[kind]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} has {kind} {value!r}; give a {'text' if kind == 'text' else 'file'}")
    return (value if kind == "text" else str(folder / value)), kind, float(weight)
