"""The process `leco`: from a job to a trained LoRA."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Generator

from leco_plugin.config.flow_rules import remarks
from leco_plugin.config.run import describe_job
from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser, Hooks, Network
from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.measure import Course
from leco_plugin.engine.neighbours import preserved
from leco_plugin.engine.pool_size import walks_in_flight, walks_per_step
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.report import Report
from leco_plugin.engine.same_run import MODEL_WEIGHTS, describe_run, model_weights_hash, refuse_other_run
from leco_plugin.engine.setup import draw_seed, fit, load_model, own_random_numbers
from leco_plugin.engine.state_file import Stored
from leco_plugin.engine.step import StepSettings
from leco_plugin.errors import ConfigError, NetworkError
from leco_plugin.events import RunEnded, RunStarted, Saved, Warned
from leco_plugin.hosts.builtin.loop import Loop
from leco_plugin.hosts.builtin.optim import check_optimizer, rate_warning
from leco_plugin.hosts.builtin.output import Output
from leco_plugin.hosts.builtin.resume import (
    States,
    find_state,
    resumed_seed,
)
from leco_plugin.hosts.builtin.sampling import Sampling


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    path: Path
    """The LoRA: the final file, or that of the step at which the run was stopped."""
    steps: int
    interrupted: bool


class LecoProcess:
    """One training run in the built-in host."""

    def __init__(self, job: JobConfig, hooks: Hooks) -> None:
        self._job, self._hooks = job, hooks
        self._seed = draw_seed() if job.training_seed is None else job.training_seed
        self._report = Report(observer for some in hooks.leco_observers(run=describe_job(job)) for observer in some)

    def run(self) -> Outcome:
        """Load, train, save; LecoError for what the user can put right."""
        began = time.perf_counter()
        job = self._job
        check_optimizer(job.train)
        self._make_folder()
        stored = find_state(job, self._report)
        if stored:
            self._seed = resumed_seed(stored, job)
        denoiser = load_model(job, self._hooks)
        self._job = job = fit(job, denoiser)
        self._output = Output(job, self._seed)
        described = {**describe_run(job, self._seed), MODEL_WEIGHTS: model_weights_hash(denoiser.module)}
        course = Course(job.train.noise_scheduler, job.leco.max_denoising_steps, job.leco.denoise_guidance_scale)
        leco = preserved(job.leco, denoiser, job.pairs, course)
        job = self._job = job.model_copy(update={"leco": leco})
        self._output = Output(job, self._seed)
        self._states = States(job, described, self._report)
        loop = self._loop(denoiser, self._create_network(denoiser))
        with own_random_numbers(self._seed, denoiser.device):
            if stored:
                refuse_other_run(stored, described)
                self._restore(loop, stored)
            self._report(RunStarted(job.name, job.train.steps, self._facts(denoiser, loop.network, stored), loop.done))
            self._warn(denoiser, loop.network)
            interrupted = loop.run()
            path = self._save(denoiser, loop, loop.done, final=not interrupted)
            if job.save.save_state or job.save.save_state_on_train_end:
                self._save_state(loop, final=not interrupted)
            if loop.sampling and not interrupted:
                loop.sampling.draw(loop.done)
        if not interrupted:
            for complaint in loop.progress.complaints():
                self._report(Warned(complaint))
        seconds = time.perf_counter() - began
        progress = loop.progress
        self._report(RunEnded(path, loop.done, seconds, interrupted, **progress.figures, means=progress.means))
        return Outcome(path, loop.done, interrupted)

    def _make_folder(self) -> None:
        folder = self._job.output_folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot write to {folder}: {error.strerror}", fix="set another training_folder"
            ) from None

    def _create_network(self, denoiser: Denoiser) -> Network:
        network = self._hooks.leco_create_network(job=self._job, denoiser=denoiser, seed=self._seed)
        if network is None:
            raise NetworkError(f"no plugin offers a network of type {self._job.network.type!r}")
        return network

    def _loop(self, denoiser: Denoiser, network: Network) -> Loop:
        job, generator = self._job, Generator().manual_seed(self._seed)
        settings = StepSettings(
            denoise_guidance_scale=job.leco.denoise_guidance_scale,
            noise_offset=job.train.noise_offset,
            min_snr_gamma=job.train.min_snr_gamma,
            loss_type=job.train.loss_type,
            huber_c=job.train.huber_c,
            huber_schedule=job.train.huber_schedule,
            preserve_weight=job.leco.preserve_weight,
        )
        training = assemble(
            job.pairs,
            job.leco,
            settings,
            denoiser=denoiser,
            network=network,
            sampler=job.train.noise_scheduler,
            generator=generator,
        )

        def save(done: int) -> None:
            self._save(denoiser, loop, done, final=False)

        def save_state() -> None:
            self._save_state(loop, final=False)

        loop = Loop(
            step=training.step,
            walks=training.walks,
            network=network,
            train=job.train,
            device=denoiser.device,
            report=self._report,
            progress=Progress(job.pairs),
            save=save,
            save_every=job.save.save_every,
            save_state=save_state if job.save.save_state else None,
            stop_at=job.leco.stop_at,
        )
        pictures = self._hooks.leco_pictures(job=job, denoiser=denoiser, network=network)
        loop.sampling = Sampling(pictures, job.sample.sample_every, loop.averaged, self._report)
        return loop

    def _save(self, denoiser: Denoiser, loop: Loop, step: int, *, final: bool) -> Path:
        with loop.averaged():
            path = self._output.write(denoiser, loop.network, step, loop.progress.figures, final=final)
        self._report(Saved(path, step, final))
        return path

    def _save_state(self, loop: Loop, *, final: bool) -> None:
        files, states = self._output.kept.names(), self._states.kept.names()
        self._states.write({"loop": loop.state(), "files": files, "states": states}, loop.done, final=final)

    def _restore(self, loop: Loop, stored: Stored) -> None:
        tree = cast(Mapping[str, Any], stored.tree)
        loop.restore(tree["loop"])
        self._output.kept.take_over(self._job.output_folder, tree["files"], self._job.name)
        self._states.kept.take_over(self._job.output_folder, tree["states"], self._job.name)

    def _warn(self, denoiser: Denoiser, network: Network) -> None:
        pairs = self._job.pairs
        prompts = [p for pair in pairs for p in (pair.target, pair.positive, pair.unconditional, pair.neutral)]
        for prompt in dict.fromkeys(denoiser.truncated(prompts)):
            unseen = denoiser.cut(prompt)
            self._report(Warned(f"the model reads only the beginning of this prompt: {prompt!r}; not {unseen!r}"))
        # a network that a plugin brings need not have any
        for note in getattr(network, "notes", ()):
            self._report(Warned(note))
        for problem in remarks(self._job, denoiser.distilled):
            self._report(Warned(str(problem)))
        odd = rate_warning(self._job.train)
        if odd:
            self._report(Warned(odd))
        if any(pair.dynamic_crops for pair in pairs) and not denoiser.uses_size_conditioning:
            self._report(Warned(f"dynamic_crops has no effect on {denoiser.family}: it has no size conditioning"))

    def _facts(self, denoiser: Denoiser, network: Network, stored: Stored | None) -> tuple[tuple[str, str], ...]:
        job = self._job
        # a file's sizes may be others than the job's; a plugin's network may not tell
        sizes = getattr(network, "sizes", f"rank {job.network.linear}, alpha {job.network.linear_alpha:g}")
        return (
            ("model", f"{job.model.name_or_path} ({denoiser.family}, {denoiser.prediction_type})"),
            *((("distilled", denoiser.distilled.why),) if denoiser.distilled else ()),
            ("device", f"{denoiser.device}, {job.train.dtype}"),
            ("targets", _some([repr(pair.target) for pair in job.pairs if not pair.keeps])),
            ("pairs", f"{len(job.pairs)} ({_count_actions(job)})"),
            ("network", f"{job.network.type}, {sizes}"),
            ("steps", f"{job.train.steps} at lr {job.train.learning_rate:g} "
                      f"({job.train.optimizer}, {job.train.lr_scheduler})"),
            *((("preserved", _some(list(map(repr, job.leco.preserve)))),) if job.leco.preserve else ()),
            ("walk", f"{_walks(job)} of {job.leco.max_denoising_steps} {job.train.noise_scheduler} steps, "
                     f"guidance {job.leco.denoise_guidance_scale:g}"),
            ("seed", str(self._seed)),
            *((("goes on", f"after step {stored.step}"),) if stored else ()),
            ("saved to", str(self._output.path())),
        )  # fmt: skip


def _count_actions(job: JobConfig) -> str:
    actions = ["keep" if pair.keeps else pair.action for pair in job.pairs]
    return ", ".join(f"{actions.count(action)} {action}" for action in dict.fromkeys(actions))


def _walks(job: JobConfig) -> str:
    """Which walks a step has, for the start of a run."""
    if job.leco.walk == "fresh":
        return f"{job.leco.pairs_per_step} fresh"
    in_step, in_flight = walks_per_step(job.leco, job.pairs), walks_in_flight(job.leco, job.pairs)
    return f"{in_step} a step from a pool of {in_flight},"


def _some(texts: Sequence[str], most: int = 6) -> str:
    """The first of the distinct ``texts``, and how many more there are."""
    distinct = list(dict.fromkeys(texts))
    more = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return ", ".join(distinct[:most]) + more
