"""The model that a source is for: its family, told as training tells it, and what ai-toolkit calls that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leco_converters.foreign import TABLE
from leco_converters.settings import Plan
from leco_converters.tree import Node, plain
from leco_plugin.config.families import FLOW_FAMILIES, FlowFamily
from leco_plugin.config.schema import JobConfig, ModelConfig, NetworkConfig, PromptPair
from leco_plugin.families.flow.facts import read_config
from leco_plugin.families.known import Settled as Settled
from leco_plugin.families.known import settle

_SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def settled(plan: Plan, pairs: Sequence[PromptPair], name: str) -> Settled:
    """A job for the source's model, or ``name`` where it says none, with what its family has by default."""
    said = {option: plain(node) for option, node in plan.settings.values.items()}
    named: dict[str, Any] = {key: said[f"model.{key}"] for key in ModelConfig.model_fields if f"model.{key}" in said}
    named.setdefault("name_or_path", name)
    # checked at their places elsewhere
    model = ModelConfig.model_construct(**named)
    network: dict[str, Any] = {"linear": said["network.linear"]} if "network.linear" in said else {}
    job = JobConfig(name="x", model=model, network=NetworkConfig.model_construct(**network), pairs=tuple(pairs))
    if not named["name_or_path"]:
        return Settled(job)
    found = settle(job)
    # what its name tells of a flow model counts where its files are not at hand
    return settle(job, told=found.family) if found.family in FLOW_FAMILIES else found


def host_model(plan: Plan, model: Settled, sizes: Sequence[tuple[int, int]], crops: bool) -> dict[str, Node]:
    """What ai-toolkit has to be told of the model, by the names of its options; what is guessed is reported."""
    values, report, root = plan.settings.values, plan.report, plan.source.root
    own = values.get("model.name_or_path")
    name, place = model.job.model.name_or_path, own or root
    is_xl = model.family == "sdxl" if model.family else crops or min(map(min, sizes)) >= 1024
    chosen: dict[str, Node] = {}
    if name.startswith("builtin:"):
        report.say("builtin", place)
    if own is None:
        chosen["model.name_or_path"] = Node(name or (_SDXL if is_xl else _SD1))
        if not name:
            report.say("no_model", root, model=chosen["model.name_or_path"].value)
    family = FLOW_FAMILIES.get(model.family or "")
    if family:
        arch = _arch(family, model, place, plan)
        report.say("family", place, title=model.title, said=f"arch: {arch}")
        embeds = model.flow.takes_guidance if model.flow else family.embedding and "schnell" not in name.lower()
        if embeds and "model.guidance_embedding" not in values:
            report.say("embedding_here", place, title=model.title, value=family.embedding)
        return {**chosen, "model.arch": Node(arch)}
    if model.family == "sd2" and "model.is_v2" not in values:
        report.say("family", place, title=model.title, said="is_v2: true")
        chosen["model.is_v2"] = Node(True)
    if "model.is_xl" not in values:
        chosen["model.is_xl"] = Node(is_xl)
        if not model.family:
            report.say("is_xl", root, said=str(is_xl).lower())
        elif is_xl:
            report.say("family", place, title=model.title, said="is_xl: true")
    return chosen


def _arch(family: FlowFamily, model: Settled, place: Node, plan: Plan) -> str:
    """The name of a family, or of its size; whether the trainer finds its files in a folder is reported."""
    name = model.job.model.name_or_path
    arch = family.archs[0]
    if len(family.archs) > 1:
        sized = _SIZES.get(read_config(name, "transformer/config.json").get("num_layers"))
        called = re.search("4b|9b", Path(name).name.lower())
        arch = f"flux2_klein_{sized or (called and called.group()) or '4b'}"
        if not sized and not called:
            plan.report.say("no_size", place, title=family.title, said=f"arch: {arch}", other=family.archs[1])
    file = TABLE["architectures"]["files"].get(arch, "")
    if file and Path(name).is_dir() and not any(Path(name).glob(file)):
        plan.report.say("no_diffusers", place, title=family.title, file=file)
    return arch


_SIZES: Mapping[object, str] = {5: "4b", 8: "9b"}
"""FLUX.2 klein by the number of its double blocks."""
