"""The search: which settings are tried next, and which trials are cut early. The only file that imports Optuna."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leco_plugin.errors import ConfigError, TrainingError, reason
from leco_plugin.tune.space import Range, Settings, Space, Value
from leco_plugin.tune.trial import Cut, Enough, Found

AT_FIRST = 6
"""Trials before any is cut, and before the sampler has enough to go by."""
_PATIENCE, _SPARED = 50, 75
"""Percent of a run before it may be cut, and percent of the trials that are not: some begin slowly."""
_STOPPED = "stopped"


@dataclass(frozen=True)
class Tried:
    """A trial that is over."""

    number: int
    settings: Settings
    state: str
    """complete, pruned or fail."""
    found: Found | None = None
    lora: Path | None = None

    def score(self, limit: float) -> float:
        """Of what was found, with this limit of drift; below all others where nothing was."""
        return self.found.score(limit) if self.found else float("-inf")

    def promise(self, limit: float) -> float:
        """Likewise; see ``Found.promise``, which is what the search goes by."""
        return self.found.promise(limit) if self.found else float("-inf")


Attempt = Callable[[str, Settings, Enough], "tuple[Path, Found] | None"]
"""Runs the trial of this name; None where the user stopped it."""
Plan = Callable[[int, Sequence[Tried]], "Settings | None"]
"""Settings of a trial before which so many were begun and these are over; None where the sampler is to choose."""


def best_of(tried: Sequence[Tried], limit: float) -> Tried | None:
    """The best whose drift stays within the limit; where none does, that of the least drift."""
    done = [(one.found.drift, one) for one in tried if one.found]
    bounded = [one for drift, one in done if drift <= limit]
    if bounded:
        return max(bounded, key=lambda one: one.score(limit))
    return min(done, key=lambda pair: pair[0])[1] if done else None


class Study:
    """A study that is kept in a database, which several workers may share."""

    def __init__(self, storage: str, name: str, space: Space, about: str, seed: int) -> None:
        """``about`` tells jobs apart; ConfigError where the study is of another, or cannot be opened."""
        try:
            import optuna
        except ImportError:
            message = "leco tune needs the package optuna, which is not installed"
            raise ConfigError(message, fix="pip install leco_plugin[tune]") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._shared = optuna, space, not storage.startswith("sqlite")
        self._states = states = optuna.trial.TrialState
        self._over = (states.COMPLETE, states.PRUNED, states.FAIL)
        self._study = self._opened(storage, name, seed)
        if self._study.user_attrs.setdefault("about", about) != about:
            raise ConfigError(
                f"the study {name} is of another job, or of other values to try", fix="set another --study"
            )
        self._study.set_user_attr("about", about)

    def _opened(self, storage: str, name: str, seed: int) -> Any:
        optuna = self._optuna
        for again in (True, True, False):
            try:
                return optuna.create_study(
                    # one name for the driver that the extra brings
                    storage=storage.replace("postgresql://", "postgresql+psycopg://", 1),
                    study_name=name,
                    sampler=self._sampler(seed),
                    pruner=optuna.pruners.PercentilePruner(_SPARED, AT_FIRST, _PATIENCE),
                    direction="maximize",
                    load_if_exists=True,
                )
            # of a database's driver, whatever it is; of two workers that make the tables, one fails
            except Exception as error:
                if not again:
                    message = f"{storage}: the study cannot be opened: {reason(error)}"
                    raise ConfigError(message, fix="check --storage") from error
                time.sleep(1)
        raise AssertionError("the last attempt raises")

    def _sampler(self, seed: int) -> Any:
        """Settings belong together: a higher rank wants a lower rate."""
        samplers, experimental = self._optuna.samplers, self._optuna.exceptions.ExperimentalWarning
        # workers that draw alike would try alike
        own = seed + os.getpid() * self._shared
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", experimental)
            return samplers.TPESampler(
                seed=own, n_startup_trials=AT_FIRST, multivariate=True, constant_liar=self._shared
            )

    def run(self, attempt: Attempt, plan: Plan, trials: int, limit: float) -> bool:
        """Try until the study has so many ``trials``, those of the ``plan`` first; whether the user stopped it.

        ``limit`` is that of drift.
        """
        stopped = False

        def objective(trial: Any) -> float:
            nonlocal stopped
            trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
            settings = {key: _suggested(trial, key, values) for key, values in self._space.items()}

            def enough(percent: int, now: float) -> bool:
                trial.report(now, percent)
                return bool(trial.should_prune())

            try:
                result = attempt(f"trial-{trial.number:04}", settings, enough)
            except Cut:
                raise self._optuna.TrialPruned from None
            if result is None:
                stopped = True
                trial.set_user_attr(_STOPPED, True)
                raise TrainingError("stopped by the user")
            path, found = result
            trial.set_user_attr("found", asdict(found))
            trial.set_user_attr("lora", str(path))
            return found.promise(limit)

        while not stopped and len(self.tried) < trials:
            # of a database for one worker, none is running still
            begun = self._trials((*self._over, self._states.RUNNING) if self._shared else self._over)
            settings = plan(len(begun), self.tried)
            if settings is not None and settings not in map(_settings, [*begun, *self._trials([self._states.WAITING])]):
                self._study.enqueue_trial(dict(settings))
            self._study.optimize(objective, n_trials=1, catch=(TrainingError,))
        return stopped

    def _trials(self, states: Sequence[Any]) -> list[Any]:
        """Of all workers, but those that a user stopped."""
        found = self._study.get_trials(deepcopy=False, states=states)
        return [one for one in found if _STOPPED not in one.user_attrs]

    @property
    def tried(self) -> list[Tried]:
        """Every trial that is over, of all workers."""
        return [_tried(one) for one in self._trials(self._over)]


def _suggested(trial: Any, key: str, values: Any) -> Value:
    if not isinstance(values, Range):
        return trial.suggest_categorical(key, list(values))  # type: ignore[no-any-return]
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high))  # type: ignore[no-any-return]
    return trial.suggest_float(key, values.low, values.high, log=values.log)  # type: ignore[no-any-return]


def _settings(trial: Any) -> Settings:
    """Of a trial, or those that one is to have which waits."""
    return trial.params or trial.system_attrs.get("fixed_params", {})  # type: ignore[no-any-return]


def _tried(trial: Any) -> Tried:
    found, lora = trial.user_attrs.get("found"), trial.user_attrs.get("lora")
    state = trial.state.name.lower()
    return Tried(trial.number, trial.params, state, Found(**found) if found else None, Path(lora) if lora else None)
