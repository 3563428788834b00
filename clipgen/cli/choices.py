"""How a variant is trained and asked, as an earlier comparison chose it (`compare.chosen`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgen.config import TransformerTraining
from clipgen.errors import UserError


@dataclass(frozen=True)
class Choice:
    """A multiple of the arm's learning rates, the settings to ask with, how many trials found them, of which rates."""

    lr_factor: float
    asked: Mapping[str, Any]
    trials: int
    lr_tried: tuple[float, ...] | None = None  # None where an earlier version of a record does not say it


def earlier_choices(
    file: str, trains: Mapping[str, TransformerTraining], choices: Mapping[str, set[str]]
) -> dict[str, Choice]:
    """Of each variant, from the compare.json of another comparison; UserError where that does not have it.

    `trains` has the learning rates that the variants ship with, `choices` what may be chosen for each.
    """
    from clipgen.evaluation.compare_report import read_comparison

    where, arms = f"compare.chosen={file}", read_comparison(Path(file))["arms"]
    if missing := [name for name in trains if name not in arms]:
        raise UserError(
            f"{where} chose nothing for {', '.join(missing)}, only for {', '.join(arms)}; narrow compare.arms and "
            "compare.captions_shares, or leave compare.chosen out"
        )
    found = {}
    for name, train in trains.items():
        try:
            about = arms[name]["about"]
            lr, muon_lr, asked, trials = about["lr"], about["muon_lr"], dict(about["chosen"]), int(about["trials"])
            factor = float(f"{lr / train.lr:.6g}")  # the quotient of two decimals is not quite the factor
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{where} does not say how {name} is trained and asked") from None
        own = train.muon_lr * factor if train.optimizer == "muon" else None
        if muon_lr != own and (muon_lr is None or own is None or abs(muon_lr - own) > 1e-6 * own):
            raise UserError(
                f"{where} trained {name} with lr={lr} and muon_lr={muon_lr}, which are no common multiple of "
                f"transformer.train.lr={train.lr} and muon_lr={train.muon_lr}; give what it was given"
            )
        if set(asked) != choices[name]:
            raise UserError(
                f"{where} chose {', '.join(sorted(asked))} for {name}, whose compare.arm.choices are "
                f"{', '.join(sorted(choices[name]))}; compare with the arms that it compared, or leave it out"
            )
        tried = about.get("lr_tried")
        found[name] = Choice(factor, asked, trials, None if tried is None else tuple(tried))
    return found
