"""`leco tune`: trials of a job, a table and a page of the best, and the winner as a job file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from leco_plugin.atomic import write_atomically
from leco_plugin.config.build import load_job
from leco_plugin.config.names import AUTO
from leco_plugin.config.schema import JobConfig
from leco_plugin.engine.concepts import watched_prompts
from leco_plugin.engine.measure import Course
from leco_plugin.errors import ConfigError, ModelError
from leco_plugin.families.known import settle
from leco_plugin.launched import place
from leco_plugin.lora.evaluate import evaluate
from leco_plugin.lora.subject import Asked, Subject
from leco_plugin.observers.console.figures import amount
from leco_plugin.observers.console.pages import Page
from leco_plugin.report.compare import compare
from leco_plugin.tune.plan import planned
from leco_plugin.tune.space import STRENGTH, Settings, Space, job_with, named_space, own_settings, usual_space
from leco_plugin.tune.study import Study, Tried, best_of
from leco_plugin.tune.trial import Enough, Found, Trials

_SIDE_BY_SIDE = 4
_SAMPLES = 4


@dataclass(frozen=True)
class Wanted:
    """What the command line says."""

    trials: int = 20
    tries: Sequence[str] = ()
    """KEY=a,b,c."""
    storage: str | None = None
    study: str | None = None
    drift_limit: float = 1.0
    """Drift beyond which nothing counts as best, where 1 is the concept."""
    output: Path | None = None


def tune(path: Path, overrides: Mapping[str, object], wanted: Wanted) -> bool:
    """Search, then tell; whether the search came to its end. LecoError for what the user can put right."""
    if place().count > 1:
        raise ConfigError(
            "trials are not trained by several processes at once", fix="start leco tune without accelerate"
        )
    settled = settle(load_job(path, overrides).job)
    job = settled.job
    folder = wanted.output or job.training_folder / f"{job.name}-tune"
    space = named_space(wanted.tries) or usual_space(settled)
    for key, values in space.items():
        # what cannot be is told before anything is trained
        for value in values if isinstance(values, Sequence) else ():
            job_with(path, overrides, {key: value})
    study = _study(job, space, folder, wanted)
    own = own_settings(job, space)
    trials, page = Trials(subject_of(job), wanted.drift_limit), Page()

    def attempt(name: str, settings: Settings, enough: Enough) -> tuple[Path, Found] | None:
        page.prose([f"{name}: {_words(settings, own)}"])
        return trials.run(_of_trial(job_with(path, overrides, settings), name, folder), enough)

    plan = planned(settled, own, space, wanted.drift_limit)
    stopped = study.run(attempt, plan, wanted.trials, wanted.drift_limit)
    _tell(page, study.tried, own, wanted.drift_limit)
    best = best_of(study.tried, wanted.drift_limit)
    if best is None:
        raise ConfigError("no trial came to its end", fix="see what they say; --trials N makes more")
    chosen = job_with(path, overrides, best.settings).model_copy(update={"name": f"{job.name}_tuned"})
    write_job(folder / "best.yaml", chosen)
    page.prose([f"the best is trial {best.number}, {_words(best.settings, own)}: its job is {folder / 'best.yaml'}"])
    _draw(page, path, study.tried, best, wanted.drift_limit, folder / "tune.html")
    return not stopped


def subject_of(job: JobConfig) -> Subject:
    """What every trial is measured with, whatever its own settings are."""
    leco, preserve = job.leco, tuple(prompt for prompt in job.leco.preserve if prompt != AUTO)
    course = Course(job.train.noise_scheduler, leco.max_denoising_steps, leco.denoise_guidance_scale, _SAMPLES)
    return Subject(job, preserve or tuple(watched_prompts(job.pairs)), course)


def write_job(path: Path, job: JobConfig) -> None:
    """Write ``job`` as a file that says the same, whatever its family has by default."""
    process = job.model_dump(mode="json", exclude_defaults=True, exclude={"name", "pairs", "meta"})
    leco = process.pop("leco", {})
    leco["prompts"] = [pair.model_dump(mode="json", exclude_defaults=True) for pair in job.pairs]
    for pair, written in zip(job.pairs, leco["prompts"], strict=True):
        # an absent neutral is not an empty one
        written |= {"unconditional": pair.unconditional, "neutral": pair.neutral}
        written |= {"guidance_scale": pair.guidance_scale, "resolution": list(pair.resolution)}
    sections = {**process, "leco": leco}
    for dotted in settle(job).table:
        section, _, name = dotted.partition(".")
        if section != "pair":
            sections.setdefault(section, {})[name] = getattr(getattr(job, section), name)
    process = {"type": "leco", **sections}
    tree = {"job": "extension", "config": {"name": job.name, "process": [process]}}
    if job.meta:
        tree["meta"] = dict(job.meta)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", fix="choose another --output") from None


def _study(job: JobConfig, space: Space, folder: Path, wanted: Wanted) -> Study:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}", fix="choose another --output") from None
    storage = wanted.storage or f"sqlite:///{(folder / 'study.db').resolve()}"
    options = job.model_dump_json(exclude={"name", "training_folder", "output_dir", "device"})
    about = hashlib.sha256(f"{options} {sorted(space.items(), key=str)}".encode()).hexdigest()[:16]
    return Study(storage, wanted.study or job.name, space, about, job.training_seed or 0)


def _of_trial(job: JobConfig, name: str, folder: Path) -> JobConfig:
    """``job`` as a trial: in a folder of its own, with the same noise as all, and no more files than its LoRA."""
    save = {"overwrite": True, "save_every": None, "save_state": False, "save_state_on_train_end": False}
    changes = {
        "name": name,
        "output_dir": folder / name,
        "training_seed": job.training_seed or 0,
        "resume": None,
        "save": job.save.model_copy(update={**save, "format": "safetensors", "no_metadata": False}),
    }
    return job.model_copy(update=changes)


def _tell(page: Page, tried: Sequence[Tried], own: Settings, limit: float) -> None:
    rows = []
    for one in sorted(tried, key=lambda one: one.score(limit), reverse=True):
        found = one.found
        figures = (
            [amount(f) for f in (found.effect, found.side_effect, found.drift, found.score(limit))] if found else []
        )
        rows.append([f"{one.number}: {_words(one.settings, own)}", *(figures or ["-"] * 4), _state(one, limit)])
    page.table("", ["trial", "effect", "side effect", "drift", "score", ""], rows)
    whole = next((one.found.whole for one in tried if one.found), None)
    page.prose([f"score: 1 is the whole effect, which is {amount(whole)} here, with no side effect and no drift"])


def _state(one: Tried, limit: float) -> str:
    if one.found:
        return "drifts" if one.found.drift > limit else ""
    return "cut early" if one.state == "pruned" else "failed"


def _draw(page: Page, path: Path, tried: Sequence[Tried], best: Tried, limit: float, output: Path) -> None:
    """The pictures of the best, and of the job as it was, side by side; those whose files are on this machine."""
    ranked = [
        best,
        *sorted((one for one in tried if one not in (best, tried[0])), key=lambda one: one.score(limit), reverse=True),
    ]
    shown = [*ranked[: _SIDE_BY_SIDE - 1], *([tried[0]] if tried[0] is not best else [])]
    files = [one.lora for one in shown if one.lora and one.lora.is_file()]
    if not files:
        return
    strengths = (-1.0, 0.0, 1.0) if any(pair.multiplier < 0 for pair in load_job(path).job.pairs) else (0.0, 0.5, 1.0)
    try:
        compare(evaluate(files, Asked(prompts=path, seeds=_SAMPLES), strengths, None), strengths, output)
    except ModelError as error:
        page.lines([f"warning: there is no page: {error.problems[0].message}"])


def _words(settings: Settings, own: Settings) -> str:
    """What of ``settings`` is not as the job has it."""
    words = []
    for key, value in settings.items():
        name = "edit strength times" if key == STRENGTH else key.rpartition(".")[2]
        shown = f"{value:.3g}" if isinstance(value, float) else f"{value}".lower()
        words += [f"{name} {shown}"] if value != own[key] else []
    return ", ".join(words) or "the job as it is"
