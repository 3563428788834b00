"""How a variant is trained and asked, as an earlier comparison chose it (`compare.chosen`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgen.errors import UserError


@dataclass(frozen=True)
class Choice:
    """A multiple of the arm's learning rates, the settings to ask with, and how many trials found them."""

    lr_factor: float
    asked: Mapping[str, Any]
    trials: int


def earlier_choices(file: str, rates: Mapping[str, float], choices: Mapping[str, set[str]]) -> dict[str, Choice]:
    """Of each variant, from the compare.json of another comparison; UserError where that does not have it.

    `rates` are the learning rates of the variants' arms, `choices` what may be chosen for each.
    """
    where = f"compare.chosen={file}"
    try:
        arms = {name: arm["about"] for name, arm in json.loads(Path(file).read_text(encoding="utf-8"))["arms"].items()}
    except OSError as problem:
        raise UserError(f"{where} cannot be read: {problem.strerror or problem}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is no comparison's compare.json") from None
    if missing := [name for name in rates if name not in arms]:
        raise UserError(
            f"{where} chose nothing for {', '.join(missing)}, only for {', '.join(arms)}; narrow compare.arms and "
            "compare.captions_shares, or leave compare.chosen out"
        )
    found = {}
    for name, rate in rates.items():
        try:
            lr, asked, trials = float(arms[name]["lr"]), dict(arms[name]["chosen"]), int(arms[name]["trials"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{where} does not say how {name} is trained and asked") from None
        if set(asked) != choices[name]:
            raise UserError(
                f"{where} chose {', '.join(sorted(asked))} for {name}, whose compare.arm.choices are "
                f"{', '.join(sorted(choices[name]))}; compare with the arms that it compared, or leave it out"
            )
        found[name] = Choice(float(f"{lr / rate:.6g}"), asked, trials)
    return found
