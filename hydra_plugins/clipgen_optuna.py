"""Hydra takes plugins of the namespace package `hydra_plugins` only."""

from clipgen.cli.optuna import StudySweeper


class OptunaSweeper(StudySweeper):
    """`hydra/sweeper=optuna`."""
