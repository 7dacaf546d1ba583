"""The training loop that all stages of the tiny model share: cosine schedule, running average, resume."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leco_plugin.errors import TrainingError
from leco_plugin.tiny.arguments import say


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage learns. Steps alone drive every schedule, never the clock."""

    name: str
    seed: int
    steps: int
    batch: int
    learning_rate: float
    after: str
    """What it builds on, in words; a stage on another ground is another stage."""
    warmup: int = 100
    floor: float = 1e-5
    """Learning rate that the cosine ends at."""
    average: float = 0.995
    """Weight of the past in the running average that the stage leaves behind."""
    weight_decay: float = 0.0

    def rate(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * cosine + self.floor


@dataclass(frozen=True)
class Dice:
    """Randomness of one step, drawn anew from (seed, stage, step), so that a resumed run throws the same."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def of(cls, seed: int, name: str, step: int = 0) -> "Dice":
        """The dice of ``step`` of the stage called ``name``."""
        root = np.random.SeedSequence([seed, step, *name.encode()])
        return cls(np.random.default_rng(root), torch.Generator().manual_seed(int(root.generate_state(1)[0])))


@dataclass(frozen=True)
class Score:
    """What one step gives: the ``loss`` () to minimise, and the ``error`` () worth showing."""

    loss: Tensor
    error: Tensor


def fit(
    stage: Stage,
    model: nn.Module,
    score: Callable[[int, Dice], Score],
    folder: Path,
    trained: list[nn.Parameter] | None = None,
) -> None:
    """Train ``model`` (or only its ``trained`` parameters) and leave the averaged weights in it.

    ``folder``/<name>.safetensors is the finished stage, taken as it is where it was made with the same settings;
    <name>.part is where a cut run goes on.
    """
    finished = folder / f"{stage.name}.safetensors"
    if finished.exists():
        _load_finished(stage, model, finished)
        return
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(stage, model, list(model.parameters()) if trained is None else trained)
    run.resume(folder / f"{stage.name}.part")
    run.go(score)
    model.load_state_dict(run.averages)
    weights = {name: weight.contiguous() for name, weight in run.averages.items()}
    save_file(weights, finished, metadata=_described(stage))
    run.part.unlink(missing_ok=True)


class _Run:
    """One stage under way: optimizer, running average, and the file to go on from."""

    every = 200

    def __init__(self, stage: Stage, model: nn.Module, trained: list[nn.Parameter]) -> None:
        self.stage, self.model, self.trained = stage, model, trained
        self.optimizer = torch.optim.AdamW(
            trained, lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=stage.weight_decay
        )
        self.averages = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self.step = 0
        self.part = Path()

    def resume(self, part: Path) -> None:
        """Use ``part`` to save to, and go on from it where it exists."""
        self.part = part
        if not part.exists():
            return
        saved = torch.load(part, weights_only=True)
        _check(self.stage, saved["stage"], part)
        self.model.load_state_dict(saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.averages, self.step = saved["averages"], int(saved["step"])

    def go(self, score: Callable[[int, Dice], Score]) -> None:
        """Take the remaining steps, printing a line now and then."""
        start, first, errors = time.monotonic(), self.step, 0.0
        while self.step < self.stage.steps:
            errors += self._one(score)
            done = self.step - first
            if self.step % 50 == 0 or self.step == self.stage.steps:
                pace = (time.monotonic() - start) / done
                shown = errors / ((done - 1) % 50 + 1)
                say(f"{self.stage.name} {self.step}/{self.stage.steps} error {shown:.4f} {pace:.2f} s/step")
                errors = 0.0
            if self.step % self.every == 0:
                self._save()

    def _one(self, score: Callable[[int, Dice], Score]) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate(self.step)
        result = score(self.step, Dice.of(self.stage.seed, self.stage.name, self.step))
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        # young averages follow quickly, or the random start would weigh on them
        keep = min(self.stage.average, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for name, weight in self.model.state_dict().items():
                if weight.is_floating_point():
                    self.averages[name].lerp_(weight, 1.0 - keep)
        self.step += 1
        return float(result.error)

    def _save(self) -> None:
        content = {
            "stage": _described(self.stage),
            "step": self.step,
            "weights": self.model.state_dict(),
            "averages": self.averages,
            "optimizer": self.optimizer.state_dict(),
        }
        beside = self.part.with_suffix(".new")
        torch.save(content, beside)
        os.replace(beside, self.part)


def _described(stage: Stage) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(stage).items()}


def _load_finished(stage: Stage, model: nn.Module, file: Path) -> None:
    with safe_open(file, "pt") as opened:
        _check(stage, opened.metadata() or {}, file)
    model.load_state_dict(load_file(file))
    say(f"{stage.name} is finished already: {file}")


def _check(stage: Stage, found: dict[str, str], file: Path) -> None:
    for key, value in _described(stage).items():
        if found.get(key) != value:
            raise TrainingError(
                f"{file} was made with {key} {found.get(key)}, not {value}: delete it or choose another --output"
            )
