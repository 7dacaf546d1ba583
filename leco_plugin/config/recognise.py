"""Says what a file is and which command it is for, from its keys or first bytes; nothing in it is checked or run."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from leco_plugin.config.files import TEXT_FORMATS, read_document
from leco_plugin.config.findings import did_you_mean, refusal
from leco_plugin.errors import ConfigError

_LARGEST_HEADER = 100_000_000
"""Bytes; what the safetensors library allows."""
_PICKLE_START = 4 * 1024 * 1024
_HISTORY = ".run.jsonl"


class Kind(Enum):
    """What a file can be."""

    JOB = "a job"
    PROMPTS = "a prompt file"
    PROMPT_LIST = "a list of prompts as LECO and Concept Sliders have them"
    LECO_CONFIG = "a LECO config"
    AI_TOOLKIT_JOB = "an ai-toolkit job"
    SETTINGS = "a settings file of sd-scripts"
    GUI_PRESET = "a preset of kohya_ss"
    ONETRAINER_PRESET = "a preset of OneTrainer"
    OTHER_TOOL = "a file of another program"
    LORA = "a LoRA"
    MODEL = "a model"
    EMBEDDING = "a textual-inversion embedding"
    STATE = "a state of a run"
    RUN = "a run that has been trained"
    GGUF = "a GGUF file"
    UNKNOWN = "none of the files that are known here"


_COMMANDS: Mapping[Kind, str] = {
    Kind.JOB: "leco train {file}",
    Kind.PROMPTS: "a job trains it as leco.prompts_file; leco check {file} shows its pairs",
    Kind.PROMPT_LIST: "leco convert {file}",
    Kind.LECO_CONFIG: "leco convert {file} --job",
    Kind.AI_TOOLKIT_JOB: "leco convert {file} --job",
    Kind.SETTINGS: "python -m leco_plugin.train_leco --config_file {file} (for SDXL: leco_plugin.sdxl_train_leco)",
    Kind.GUI_PRESET: "python -m leco_plugin.train_leco --config_file {file} (for SDXL: leco_plugin.sdxl_train_leco)",
    Kind.ONETRAINER_PRESET: "leco host run onetrainer --config-path {file}",
    Kind.OTHER_TOOL: "nothing here reads it; write a job, or convert a file of LECO or ai-toolkit",
    Kind.LORA: "leco inspect {file}",
    Kind.MODEL: "name it in a job as model.name_or_path, or to a command as --model",
    Kind.EMBEDDING: "put it into the folder that model.embeddings_folder of a job names",
    Kind.STATE: "leco train JOB --set resume={file}",
    Kind.RUN: "leco report {file}",
    Kind.GGUF: "nothing here reads it; get the weights as .safetensors, or as a diffusers folder",
}


@dataclass(frozen=True)
class Found:
    """What a file is."""

    path: Path
    kind: Kind
    called: str = ""
    """What it is called in a message where that says more than its kind."""

    @property
    def command(self) -> str:
        """The command that it is for, or what else to do with it; empty where it is not known."""
        return _COMMANDS.get(self.kind, "").format(file=shlex.quote(str(self.path)))

    def expected(self, *kinds: Kind) -> Found:
        """This file; raises ConfigError, with the right command, where its kind is known and none of ``kinds``."""
        if self.kind in (*kinds, Kind.UNKNOWN):
            return self
        called = self.called or self.kind.value
        raise refusal(self.path, f"this is {called}: {self.command}")


def recognise(path: str | Path) -> Found:
    """Say what a file or folder is; UNKNOWN also for what is not there or cannot be read. Never raises."""
    path = Path(path)
    try:
        if path.is_dir():
            return Found(path, _folder(path))
        if path.suffix.lower() in TEXT_FORMATS:
            return recognise_tree(path, read_document(path).tree)
        return Found(path, _binary(path))
    except (OSError, ValueError, ConfigError):
        return Found(path, Kind.UNKNOWN)


def expect(path: str | Path, *kinds: Kind) -> Found:
    """Say what a file is; raises ConfigError, with the right command, where that is known and none of ``kinds``."""
    return recognise(path).expected(*kinds)


def recognise_tree(path: Path, tree: object) -> Found:
    """Say what a settings file is whose values are read already."""
    if isinstance(tree, list):
        return Found(path, Kind.PROMPT_LIST if any(map(_is_prompt, tree)) else Kind.UNKNOWN)
    if not isinstance(tree, dict):
        return Found(path, Kind.UNKNOWN)
    if "job" in tree or "config" in tree:
        return Found(path, _job(tree))
    if _is_leco(tree):
        return Found(path, Kind.LECO_CONFIG)
    if not tree.keys().isdisjoint(_PROMPTS):
        return Found(path, Kind.PROMPTS)
    for called, is_it in _OTHER_TOOLS.items():
        if is_it(tree):
            return Found(path, Kind.OTHER_TOOL, called)
    return Found(path, _flat(tree))


_LECO = ("pretrained_model", "network", "train", "save", "logging", "other")
_PROMPTS = ("prompts", "targets", "slider", "target", "target_class")
_SETTINGS = frozenset({
    "pretrained_model_name_or_path", "prompts_file", "output_name", "max_train_steps", "network_module", "network_dim",
    "network_alpha", "optimizer_type", "max_denoising_steps", "leco_denoise_guidance_scale", "train_data_dir",
})  # fmt: skip
_SETTINGS_ALONE = _SETTINGS - {"prompts_file", "max_denoising_steps"}
"""Those that LECO has not, too."""
_OF_THE_GUI = frozenset({"num_cpu_threads_per_process", "num_processes", "LoRA_type", "extra_accelerate_launch_args"})
_OTHER_TOOLS: Mapping[str, Callable[[Mapping[str, object]], bool]] = {
    "a workflow of ComfyUI": lambda tree: {"nodes", "links"} <= tree.keys() or _is_comfy_prompt(tree),
    "a workflow of InvokeAI": lambda tree: "nodes" in tree and "edges" in tree,
    "a config of SimpleTuner": lambda tree: not {"model_family", "--model_family"}.isdisjoint(tree),
    "a dataset config of sd-scripts": lambda tree: isinstance(tree.get("datasets"), list),
    "a config of diffusion-pipe": lambda tree: isinstance(tree.get("adapter"), dict) and "dataset" in tree,
    "a config of accelerate": lambda tree: "compute_environment" in tree,
    "what web UIs show of a LoRA": lambda tree: not {"preferred weight", "trainedWords"}.isdisjoint(tree),
}


def _is_comfy_prompt(tree: Mapping[str, object]) -> bool:
    return bool(tree) and all(isinstance(node, dict) and "class_type" in node for node in tree.values())


def _is_leco(tree: Mapping[str, object]) -> bool:
    """Whether it has LECO's sections; sd-scripts' may have any names, but other keys."""
    if isinstance(tree.get("pretrained_model"), dict):
        return True
    return (
        "prompts_file" in tree and not tree.keys().isdisjoint(_LECO) and _names_inside(tree).isdisjoint(_SETTINGS_ALONE)
    )


def _names_inside(tree: Mapping[str, object]) -> set[str]:
    return {*tree, *(name for table in tree.values() if isinstance(table, dict) for name in table)}


def _is_prompt(item: object) -> bool:
    return isinstance(item, dict) and not item.keys().isdisjoint(("target", "target_class", "positive"))


def _job(tree: Mapping[str, object]) -> Kind:
    """Ours, or ai-toolkit's where every process is of a type that no typo makes of `leco`."""
    config = tree.get("config")
    processes = config.get("process") if isinstance(config, dict) else None
    types = [item.get("type") for item in processes if isinstance(item, dict)] if isinstance(processes, list) else []
    foreign = [isinstance(kind, str) and kind != "leco" and not did_you_mean(kind, ["leco"]) for kind in types]
    return Kind.AI_TOOLKIT_JOB if foreign and all(foreign) else Kind.JOB


def _flat(tree: Mapping[str, object]) -> Kind:
    """Settings in one table, or in sections with any names."""
    if "training_method" in tree and ("model_type" in tree or "base_model_name" in tree):
        return Kind.ONETRAINER_PRESET
    if "peft_type" in tree:
        return Kind.LORA
    if not {"_class_name", "_diffusers_version", "architectures"}.isdisjoint(tree):
        return Kind.MODEL
    names = _names_inside(tree)
    if not names.isdisjoint(_OF_THE_GUI):
        return Kind.GUI_PRESET
    return Kind.UNKNOWN if names.isdisjoint(_SETTINGS) else Kind.SETTINGS


def _folder(path: Path) -> Kind:
    inside = {entry.name for entry in path.iterdir()}
    if inside & {"adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"}:
        return Kind.LORA
    if inside & {"model_index.json", "unet", "transformer"}:
        return Kind.MODEL
    if {"manifest.json", "state.json"} <= inside:
        return Kind.STATE
    return Kind.RUN if any(name.endswith(_HISTORY) for name in inside) else Kind.UNKNOWN


def _binary(path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix in (".safetensors", ".sft"):
        return _tensors(_header(path))
    if suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return _pickled(path)
    known = {".gguf": Kind.GGUF, ".jsonl": Kind.RUN if path.name.endswith(_HISTORY) else Kind.UNKNOWN}
    return known.get(suffix, Kind.UNKNOWN) if path.is_file() else Kind.UNKNOWN


def names_in(path: Path) -> str:
    """Names of tensors that a model's file holds, as one text; raises OSError or ValueError where it is none."""
    if path.suffix.lower() in (".safetensors", ".sft"):
        return "\n".join(_header(path))
    return _start_of_pickle(path).decode("latin-1")


def _header(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file; raises ValueError where it is none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _LARGEST_HEADER:
            raise ValueError
        try:
            header = json.loads(file.read(length))
        except RecursionError:
            raise ValueError from None
    return [name for name in header if name != "__metadata__"] if isinstance(header, dict) else []


_OF_LORAS = re.compile(r"lora[_.]|lycoris_|\.(hada|lokr|b?oft|vera|ia3)_")
_OF_SOME_LORAS = re.compile(r"\.(alpha|dora_scale|diff|diff_b|set_weight|w_norm|b_norm|on_input|[ab][12]\.weight)$")
"""Endings that a model may have, too, but not on most of its tensors."""
_OF_EMBEDDINGS = ({"emb_params"}, {"clip_l"}, {"clip_g"}, {"clip_g", "clip_l"}, {"string_to_param"})


def _tensors(names: list[str]) -> Kind:
    if set(names) in _OF_EMBEDDINGS:
        return Kind.EMBEDDING
    if any(map(_OF_LORAS.search, names)) or 2 * sum(map(bool, map(_OF_SOME_LORAS.search, names))) > len(names):
        return Kind.LORA
    return Kind.MODEL if names else Kind.UNKNOWN


def _pickled(path: Path) -> Kind:
    """A checkpoint's kind by the names in it, which are searched for and not unpickled."""
    start = _start_of_pickle(path)
    if b"string_to_param" in start:
        return Kind.EMBEDDING
    if any(part in start for part in (b"lora_", b"lycoris_", b"hada_w1", b"lokr_w1", b"lora.up")):
        return Kind.LORA
    return Kind.MODEL if b".weight" in start else Kind.UNKNOWN


def _start_of_pickle(path: Path) -> bytes:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return file.read(_PICKLE_START)
        try:
            with zipfile.ZipFile(file) as archive:
                name = next((name for name in archive.namelist() if name.endswith("data.pkl")), "")
                with archive.open(name) as pickled:
                    return pickled.read(_PICKLE_START)
        except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error):
            return b""
