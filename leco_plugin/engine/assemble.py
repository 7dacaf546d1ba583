"""The step and its walks from a host's model and network: what every host calls once, at the start of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.core.walk import Walks
from leco_plugin.engine.concepts import encode_concepts
from leco_plugin.engine.rows import Model, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings
from leco_plugin.engine.walks import make_walks


@dataclass(frozen=True)
class Training:
    """What a host takes losses from: ``step.run(walks, backward)`` is one step."""

    step: LecoStep
    walks: Walks
    model: Model


def assemble(
    pairs: Sequence[PromptPair],
    leco: LecoConfig,
    settings: StepSettings,
    *,
    denoiser: Denoiser,
    network: Network,
    sampler: str,
    generator: Generator,
) -> Training:
    """Encode the prompts of ``pairs`` and begin their walks along the sampler of this name.

    Everything random comes from ``generator``, so that equal seeds give equal pairs, stops and noise in every host.
    """
    concepts = encode_concepts(pairs, denoiser, leco.preserve)
    model = Model(denoiser, network, concepts.table)
    samplers = Samplers(denoiser, sampler, leco.max_denoising_steps)
    step = LecoStep(model, concepts.items, samplers, settings, concepts.untouched)
    return Training(step, make_walks(leco, step, pairs, generator), model)
