"""The process `leco`: from a job to a trained LoRA."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Generator

from leco_plugin.config.flow_rules import remarks, without_effect
from leco_plugin.config.idle import idle_settings, refuse_nothing
from leco_plugin.config.run import describe_job
from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser, Hooks, Network
from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.measure import Course
from leco_plugin.engine.neighbours import nothing_near, preserved
from leco_plugin.engine.pool_size import walks_in_flight, walks_per_step
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.report import Report
from leco_plugin.engine.same_run import (
    MODEL_WEIGHTS,
    describe_run,
    model_weights_hash,
    refuse_other_run,
)
from leco_plugin.engine.setup import draw_seed, fit, load_model, own_random_numbers
from leco_plugin.engine.state_file import Stored
from leco_plugin.engine.step import StepSettings
from leco_plugin.engine.stop import stop_on_signal
from leco_plugin.errors import ConfigError, NetworkError, reason
from leco_plugin.events import RunEnded, RunStarted, Warned
from leco_plugin.families.compiled import Compiled
from leco_plugin.hosts.builtin.folder import Folder, named, new_run_id
from leco_plugin.hosts.builtin.loop import Loop
from leco_plugin.hosts.builtin.optim import check_optimizer
from leco_plugin.hosts.builtin.output import Output
from leco_plugin.hosts.builtin.parallel import Alone, join
from leco_plugin.hosts.builtin.resume import (
    NEWEST,
    States,
    begin_anew,
    find_states,
    refuse_other_count,
    resumed_seed,
    tree_of,
)
from leco_plugin.hosts.builtin.sampling import Sampling
from leco_plugin.hosts.builtin.saving import Helping, Saving
from leco_plugin.launched import place


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
        # of several processes one prints and writes
        asked = hooks.leco_observers(run=describe_job(job)) if place().first else ()
        self._report = Report(observer for some in asked for observer in some)
        self._run = new_run_id()

    def run(self) -> Outcome:
        """Load, train, save; LecoError for what the user can put right."""
        refuse_nothing(self._job.pairs)
        check_optimizer(self._job.train)
        with join(self._job.device) as crew:
            if not crew.first:
                return self._train(crew, None, (), None, iter(()))
            with Folder(self._job) as folder:
                states = find_states(self._job, folder.newest_run, self._report)
                stored = next(states, None)
                if stored:
                    refuse_other_count(stored, crew.count)
                    self._seed, self._run = resumed_seed(stored, self._job), stored.label.run
                else:
                    begin_anew(self._job, self._report)
                replaced = folder.replaced(goes_on=self._goes_on(folder, stored))
                return self._train(crew, folder, replaced, stored, states)

    def _train(
        self,
        crew: Alone,
        folder: Folder | None,
        replaced: Sequence[Path],
        stored: Stored | None,
        states: Iterator[Stored],
    ) -> Outcome:
        """The run once it is known whether, and from where, it goes on; only the first process has the folder."""
        began = time.perf_counter()
        self._seed = crew.hand(self._seed)
        job = self._job
        denoiser = load_model(crew.placed(job), self._hooks)
        # as the job has it: what the model leaves open to itself is not known when the next run asks for a state
        described = {**describe_run(job, self._seed), MODEL_WEIGHTS: model_weights_hash(denoiser.module)}
        crew.refuse_unequal("the job or the base model", described)
        asked, job = job, _completed(job, denoiser)
        self._job = job
        for problem in nothing_near(asked.leco, job.leco):
            self._report(Warned(problem))
        output = Output(job, self._seed, self._report)
        states_of_run = States(job, self._run, described)
        saving = self._saving(crew, denoiser, self._create_network(denoiser), output, states_of_run)
        loop = saving.loop
        with own_random_numbers(crew.seed(self._seed), denoiser.device):
            with stop_on_signal() as stop:
                stored = self._restore(crew, saving, stored, states)
                if folder:
                    self._announce(folder, denoiser, saving, stored, replaced)
                begun = loop.done
                interrupted = loop.run(crew.agreed(stop))
                if interrupted and loop.done == begun:
                    # a LoRA that learnt nothing would only be in the way of the next run
                    raise KeyboardInterrupt
                if job.memory.torch_compile:
                    self._compiled(denoiser).keep()
                crew.refuse_apart(saving.network.parameters())
                path = saving.end(loop.done, interrupted=interrupted)
            if loop.sampling and not interrupted:
                loop.sampling.draw(loop.done)
        if not interrupted:
            for complaint in loop.progress.complaints():
                self._report(Warned(complaint))
        progress, seconds = loop.progress, time.perf_counter() - began
        self._report(RunEnded(path, loop.done, seconds, interrupted, **progress.figures, means=progress.means))
        saving.refuse_troubles()
        return Outcome(path, loop.done, interrupted)

    def _announce(
        self, folder: Folder, denoiser: Denoiser, saving: Saving, stored: Stored | None, replaced: Sequence[Path]
    ) -> None:
        """Say what begins now, and what is odd about it."""
        folder.begin(self._run)
        facts = self._facts(denoiser, saving, stored)
        self._report(RunStarted(self._job.name, self._job.train.steps, facts, saving.loop.done, self._run))
        if replaced:
            message = "files of an earlier run are replaced where this one writes the same"
            self._report(Warned(f"{message}: {named(replaced)}"))
        self._warn(denoiser, saving.network)

    def _compiled(self, denoiser: Denoiser) -> Compiled:
        job = self._job
        told = job.memory, job.network, job.train.dtype, job.train.gradient_checkpointing
        return Compiled(denoiser.module, repr(told), kept=job.memory.dynamo_backend == "inductor")

    def _goes_on(self, folder: Folder, stored: Stored | None) -> bool:
        """Whether the files that are there already are of this same run."""
        asked = self._job.resume
        if stored is None:
            # one that was killed before its first state begins anew; one that has ended does not
            return asked == NEWEST and bool(folder.newest_run) and not folder.is_finished
        beside = asked == NEWEST or Path(asked or "").expanduser().resolve().parent == folder.path.resolve()
        return stored.label.run == folder.newest_run or (beside and not folder.newest_run)

    def _create_network(self, denoiser: Denoiser) -> Network:
        network = self._hooks.leco_create_network(job=self._job, denoiser=denoiser, seed=self._seed)
        if network is None:
            raise NetworkError(f"no plugin offers a network of type {self._job.network.type!r}")
        return network

    def _saving(self, crew: Alone, denoiser: Denoiser, network: Network, output: Output, states: States) -> Saving:
        """The loop, with what writes its files and draws its pictures."""
        job = self._job
        training = assemble(
            job.pairs,
            job.leco,
            _settings(job),
            denoiser=denoiser,
            network=network,
            sampler=job.train.noise_scheduler,
            generator=Generator().manual_seed(crew.seed(self._seed)),
        )
        loop = Loop(
            step=training.step,
            walks=training.walks,
            network=network,
            train=job.train,
            device=denoiser.device,
            report=self._report,
            progress=Progress(job.pairs),
            save=lambda step: saving.in_between(step),
            rescue=lambda step: saving.rescue(step),
            save_every=job.save.save_every,
            stop_at=job.leco.stop_at,
            crew=crew,
        )
        kind = Saving if crew.first else Helping
        saving = kind(output, states, denoiser, network, loop, self._report, crew)
        pictures = self._hooks.leco_pictures(job=job, denoiser=denoiser, network=network) if crew.first else None
        loop.sampling = Sampling(pictures, job.sample.sample_every, loop.averaged, self._report)
        return saving

    def _restore(self, crew: Alone, saving: Saving, stored: Stored | None, states: Iterator[Stored]) -> Stored | None:
        """Go on from ``stored``, or from the next of ``states`` that fits, as the first process finds it."""
        if crew.first and stored:
            refuse_other_run(stored, saving.states.described)
            stored = self._fitting(crew, saving, itertools.chain([stored], states))
        stored = crew.hand(stored)
        if stored and not crew.first:
            saving.loop.restore(tree_of(stored, crew.rank))
        crew.refuse_apart(saving.network.parameters())
        return stored

    def _fitting(self, crew: Alone, saving: Saving, states: Iterator[Stored]) -> Stored:
        """The first of ``states`` whose parts are what this run writes, taken up."""
        for one in states:
            try:
                refuse_other_count(one, crew.count)
                tree = cast(Mapping[str, Any], one.tree)
                saving.loop.restore(tree_of(one, 0))
                if saving.loop.done != one.step:
                    raise ValueError(f"its parts are those of step {saving.loop.done}")
                saving.output.kept.take_over(self._job.output_folder, tree["files"], self._job.name)
                saving.states.kept.take_over(self._job.output_folder, tree["states"], self._job.name)
            # a state is a file that anybody may have changed: its parts are anything
            except Exception as error:  # noqa: BLE001
                self._report(Warned(f"the state after step {one.step} does not fit and is left out: {reason(error)}"))
            else:
                return one
        raise ConfigError("resume: no state is left that fits this run", fix="leave resume out to start a new run")

    def _warn(self, denoiser: Denoiser, network: Network) -> None:
        pairs = self._job.pairs
        prompts = [p for pair in pairs for p in (pair.target, pair.positive, pair.unconditional, pair.neutral)]
        for prompt in dict.fromkeys(denoiser.truncated(prompts)):
            unseen = denoiser.cut(prompt)
            self._report(Warned(f"the model reads only the beginning of this prompt: {prompt!r}; not {unseen!r}"))
        # a network that a plugin brings need not have any
        for note in getattr(network, "notes", ()):
            self._report(Warned(note))
        sizeless = () if denoiser.uses_size_conditioning else without_effect(pairs, denoiser.family)
        for problem in (*idle_settings(self._job), *remarks(self._job, denoiser.distilled), *sizeless):
            self._report(Warned(str(problem)))

    def _facts(self, denoiser: Denoiser, saving: Saving, stored: Stored | None) -> tuple[tuple[str, str], ...]:
        job, network, count = self._job, saving.network, saving.crew.count
        # a file's sizes may be others than the job's; a plugin's network may not tell
        sizes = getattr(network, "sizes", f"rank {job.network.linear}, alpha {job.network.linear_alpha:g}")
        return (
            ("model", f"{job.model.name_or_path} ({denoiser.family}, {denoiser.prediction_type})"),
            *((("processes", f"{count}, each with walks of its own; gradients are averaged"),) if count > 1 else ()),
            *((("distilled", denoiser.distilled.why),) if denoiser.distilled else ()),
            ("device", f"{denoiser.device}, {job.train.dtype}"),
            *((("compiled", str(self._compiled(denoiser))),) if job.memory.torch_compile else ()),
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
            ("saved to", str(saving.output.path())),
        )  # fmt: skip


def _completed(job: JobConfig, denoiser: Denoiser) -> JobConfig:
    """``job`` with what it leaves to the model: its own defaults, and prompts that shall stay as they are."""
    job = fit(job, denoiser)
    course = Course(job.train.noise_scheduler, job.leco.max_denoising_steps, job.leco.denoise_guidance_scale)
    return job.model_copy(update={"leco": preserved(job.leco, denoiser, job.pairs, course)})


def _settings(job: JobConfig) -> StepSettings:
    return StepSettings(
        denoise_guidance_scale=job.leco.denoise_guidance_scale,
        noise_offset=job.train.noise_offset,
        min_snr_gamma=job.train.min_snr_gamma,
        loss_type=job.train.loss_type,
        huber_c=job.train.huber_c,
        huber_schedule=job.train.huber_schedule,
        preserve_weight=job.leco.preserve_weight,
    )


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
