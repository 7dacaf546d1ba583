"""The search: which settings are tried next, and which trials are cut early. The only file that imports Optuna."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leco_plugin.errors import ConfigError, TrainingError, reason
from leco_plugin.tune.space import Range, Space, Value
from leco_plugin.tune.trial import Cut, Enough, Found

AT_FIRST = 4
"""Trials before any is cut: there has to be something to compare with."""
_PATIENCE = 30
"""Percent of a run before it is."""
Attempt = Callable[[str, Mapping[str, Value], Enough], "tuple[Path, Found] | None"]
"""Runs the trial of this name; None where the user stopped it."""


@dataclass(frozen=True)
class Tried:
    """A trial that is over."""

    number: int
    settings: Mapping[str, Value]
    state: str
    """complete, pruned or fail."""
    found: Found | None = None
    lora: Path | None = None


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
        self._optuna, self._space = optuna, space
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
                    # workers that draw alike would try alike
                    sampler=optuna.samplers.TPESampler(seed=seed + os.getpid() * (not storage.startswith("sqlite"))),
                    pruner=optuna.pruners.MedianPruner(n_startup_trials=AT_FIRST, n_warmup_steps=_PATIENCE),
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

    def run(self, attempt: Attempt, first: Mapping[str, Value], trials: int, limit: float) -> bool:
        """Try until the study has so many ``trials``, ``first`` first; whether the user stopped it.

        ``limit`` is that of drift.
        """
        states = self._optuna.trial.TrialState
        over = (states.COMPLETE, states.PRUNED, states.FAIL)
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(dict(first), skip_if_exists=True)
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
                self._study.stop()
                raise TrainingError("stopped")
            path, found = result
            trial.set_user_attr("found", asdict(found))
            trial.set_user_attr("lora", str(path))
            return found.score(limit)

        left = self._optuna.study.MaxTrialsCallback(trials, states=over)
        if len(self._study.get_trials(deepcopy=False, states=over)) < trials:
            self._study.optimize(objective, callbacks=[left], catch=(TrainingError,))
        return stopped

    @property
    def tried(self) -> list[Tried]:
        """Every trial that is over, of all workers."""
        return [_tried(one) for one in self._study.get_trials(deepcopy=False) if one.state.is_finished()]


def _suggested(trial: Any, key: str, values: Any) -> Value:
    if not isinstance(values, Range):
        return trial.suggest_categorical(key, list(values))  # type: ignore[no-any-return]
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high))  # type: ignore[no-any-return]
    return trial.suggest_float(key, values.low, values.high, log=values.log)  # type: ignore[no-any-return]


def _tried(trial: Any) -> Tried:
    found, lora = trial.user_attrs.get("found"), trial.user_attrs.get("lora")
    state = trial.state.name.lower()
    return Tried(trial.number, trial.params, state, Found(**found) if found else None, Path(lora) if lora else None)
