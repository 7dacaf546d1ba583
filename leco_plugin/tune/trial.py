"""One trial: a short run of a job, and what its LoRA does on noise that training never meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.config.run import RunDescription
from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser
from leco_plugin.engine.measure import NoNetwork, unit
from leco_plugin.engine.setup import choose_device
from leco_plugin.engine.stop import AtOnce
from leco_plugin.events import Event, StepDone
from leco_plugin.hookspecs import hookimpl
from leco_plugin.hosts.builtin.shared_model import SharedModel
from leco_plugin.lora.file import Lora
from leco_plugin.lora.subject import Subject
from leco_plugin.plugins import plugin_manager, run_job

_WORTH = 0.1
"""Of the whole effect, a side effect or drift as large as the concept. Little: a LoRA that does nothing has neither."""
_BEYOND = 3.0
"""Of the whole effect, drift beyond the limit: more than the effect that comes with it."""
_NEAR, _MOST = 0.95, 4.0
"""How much of the drift limit is aimed at, and the greatest factor that is believed in."""
_SLOWER = 0.85
"""The effect grows like side effect and drift to this power, by the strength and by the rate (builtin:tiny)."""
Enough = Callable[[int, float], bool]
"""Whether a run is to end early, told its percentage of steps and its promise."""


@dataclass(frozen=True)
class Found:
    """What a LoRA does at the strength that it was trained at, in units of the concept."""

    effect: float
    whole: float
    """The effect with which targets are drawn as what the edit leads to."""
    side_effect: float
    drift: float

    def score(self, limit: float) -> float:
        """1 for the whole effect and nothing else; too much is as bad as too little, drift over ``limit`` is worse."""
        off = abs(1 - self.effect / self.whole)
        return 1 - off - _WORTH * (self.side_effect + self.drift) - _BEYOND * max(0.0, self.drift - limit)

    def missing(self, limit: float) -> float:
        """The factor by which it should do more, or less, for the whole effect, or as much as ``limit`` leaves."""
        of_effect = self.whole / self.effect if self.effect > 0 else _MOST
        of_drift = _NEAR * limit / self.drift if self.drift > 0 else _MOST
        return min(max(min(of_effect, of_drift), 1 / _MOST), _MOST)

    def promise(self, limit: float) -> float:
        """Its score if it did so much more: what other settings are worth, however far this run's rate took it."""
        by = self.missing(limit)
        return Found(self.effect * by**_SLOWER, self.whole, self.side_effect * by, self.drift * by).score(limit)


class Cut(AtOnce):
    """A run that is not worth its end."""


class Trials:
    """Runs trials on one model, which is loaded once."""

    def __init__(self, subject: Subject, limit: float) -> None:
        """``limit`` is that of drift."""
        self._subject, self._limit = subject, limit
        self._whole: float | None = None
        self._manager = plugin_manager()
        # trials are told of in a table
        for name in ("observers", "report", "pictures"):
            self._manager.unregister(name=name)
        self._model = SharedModel(self._manager)
        self._manager.register(self._model, "shared-model")

    def run(self, job: JobConfig, enough: Enough) -> tuple[Path, Found] | None:
        """Train ``job``; None where the user stopped it. Raises Cut where it was ``enough``, else what a run raises."""
        watch = _Watch(enough, self.whole, self._limit)
        self._manager.register(watch, "trial")
        try:
            result = run_job(job, manager=self._manager)
        finally:
            self._manager.unregister(watch)
        return None if result.interrupted else (result.path, self.measure(result.path))

    def measure(self, path: Path) -> Found:
        """What the LoRA in ``path`` does."""
        subject = self._subject
        denoiser = self._denoiser()
        strength = unit(subject.pairs)
        with subject.attached(Lora.read(path), denoiser) as network:
            measured = subject.bench(denoiser, network).measure(sorted({-strength, strength}), own_side=True)
        effect = measured.at_own_side(strength)
        drift = max(measured.drift(side) or 0.0 for side in (-strength, strength) if side in _sides(subject, strength))
        return Found(effect.along, self.whole, effect.beside, drift)

    @property
    def whole(self) -> float:
        """The whole effect, by the walks of the base model alone, so that it is one for all trials."""
        if self._whole is None:
            found = self._subject.bench(self._denoiser(), NoNetwork()).measure((), drift=False).whole
            self._whole = found if found > 0 else 1.0
        return self._whole

    def _denoiser(self) -> Denoiser:
        """The model, without any network on it."""
        job = self._subject.job
        loaded: Denoiser = self._manager.hook.leco_load_model(job=job, device=choose_device(job.device))
        return loaded


def _sides(subject: Subject, strength: float) -> set[float]:
    """The strengths that pairs are trained at."""
    return {strength if pair.multiplier > 0 else -strength for pair in subject.pairs if pair.multiplier}


class _Watch:
    """Observes a run, and ends it when it has shown enough."""

    def __init__(self, enough: Enough, whole: float, limit: float) -> None:
        self._enough, self._whole, self._limit = enough, whole, limit
        self._asked = 0

    @hookimpl
    def leco_observers(self, run: RunDescription) -> list[_Watch]:
        """This one alone."""
        return [self]

    def notify(self, event: Event) -> None:
        """Ask at every tenth of the run."""
        if not isinstance(event, StepDone) or event.effect is None:
            return
        tenth = 10 * event.step // event.steps
        if self._asked < tenth < 10:
            self._asked = tenth
            found = Found(event.effect, self._whole, event.side_effect or 0.0, event.drift or 0.0)
            if self._enough(10 * tenth, found.promise(self._limit)):
                raise Cut
