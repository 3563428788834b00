"""`hydra/sweeper=optuna`: a stored Optuna study, of which the same command again runs the trials that are missing.

hydra-optuna-sweeper (1.3.0) asks for Optuna 2, whose stored studies do not open with the SQLAlchemy of today, and
draws all trials again when it is started again; so here is a sweeper of its keys on current Optuna.
"""

import math
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from clipgen.cli.say import say
from clipgen.cli.score import direction_of
from clipgen.errors import UserError


class StudySweeper(Sweeper):
    """Asks the study for values, and tells it each job's metric; conf/hydra/sweeper/optuna.yaml explains the keys."""

    def __init__(
        self, sampler: DictConfig, storage: str, study_name: str, n_trials: int, n_jobs: int, params: DictConfig | None
    ):
        self.sampler, self.storage, self.study_name = sampler, storage, study_name
        self.n_trials, self.n_jobs, self.params = n_trials, n_jobs, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        try:
            import optuna
            from optuna.trial import TrialState
        except ImportError as problem:
            raise UserError(f"hydra/sweeper=optuna: {problem}; pip install 'clipgen[sweep]'") from problem

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        params = OmegaConf.to_container(self.params, resolve=True) if self.params else {}
        space, fixed = search_space([*(f"{key}={value}" for key, value in params.items()), *arguments])
        if not space:
            raise UserError(
                "hydra/sweeper=optuna has nothing to draw from; type a range, as transformer.train.lr="
                "'tag(log,interval(1e-4,1e-2))'"
            )
        direction = direction_of(self.config.metric, self.config.direction)
        study = optuna.create_study(
            storage=self.storage, study_name=self.study_name, direction=direction, load_if_exists=True
        )
        if study.direction.name.lower() != direction:
            raise UserError(
                f"{self.storage} is a study to {study.direction.name.lower()} its metric, not to {direction} it; take "
                "another name="
            )
        self.check_metric(study)
        finished = len(study.get_trials(states=(TrialState.COMPLETE,)))
        missing = max(0, self.n_trials - finished)
        # the sweep's folder is this process's own: what still counts as running was cut off, and is continued
        waiting = study.get_trials(states=(TrialState.RUNNING,))
        for trial in [trial for trial in waiting if set(trial.params) != set(space)]:
            study.tell(trial.number, state=TrialState.FAIL)
            waiting.remove(trial)
        say(f"optuna: {finished} of {self.n_trials} trials are finished, {min(missing, len(waiting))} were cut off")
        while missing:
            trials = [waiting.pop(0) if waiting else self.ask(study, space) for _ in range(min(missing, self.n_jobs))]
            jobs = [[*fixed, *(f"{key}={typed(value)}" for key, value in trial.params.items())] for trial in trials]
            for trial, job in zip(trials, self.launcher.launch(jobs, trials[0].number), strict=True):
                failed = math.isnan(score := job.return_value)
                state = TrialState.FAIL if failed else TrialState.COMPLETE
                study.tell(trial.number, None if failed else score, state)
            missing -= len(trials)

    def check_metric(self, study: Any) -> None:
        """A study is of one metric."""
        if (metric := study.user_attrs.setdefault("metric", self.config.metric)) != self.config.metric:
            raise UserError(
                f"{self.storage} is a study of metric={metric}, not of {self.config.metric}; take another name="
            )
        study.set_user_attr("metric", metric)

    def ask(self, study: Any, space: dict[str, Any]) -> Any:
        """A new trial; the sampler's seed is its own, so that a study continues as if it had never stopped."""
        from hydra.utils import instantiate
        from numpy.random import SeedSequence  # here, as every verb's --help loads this file

        sampler = OmegaConf.to_container(self.sampler, resolve=True)
        if sampler.get("seed") is not None:
            own = SeedSequence([sampler["seed"], len(study.get_trials(deepcopy=False))])
            sampler["seed"] = int(own.generate_state(1)[0])
        study.sampler = instantiate(sampler)
        try:
            return study.ask(fixed_distributions=space)
        except ValueError as problem:  # other choices than the study began with
            raise UserError(f"{self.storage}: {problem}; take another name= for another search") from problem


def typed(value: Any) -> str:
    """A drawn value as a word of the command line."""
    return repr(value) if isinstance(value, float) else str(value)


def search_space(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(key → Optuna's distribution, the words with one value); what stands later wins."""
    space: dict[str, Any] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        key = override.get_key_element()
        if override.is_sweep_override():
            fixed.pop(key, None)
            space[key] = distribution(key, override)
        else:
            space.pop(key, None)
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    return space, list(fixed.values())


def distribution(key: str, override: Override) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    try:
        return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log="log" in value.tags)
    except ValueError as problem:
        raise UserError(f"{key}={override.input_line}: {problem}") from None
