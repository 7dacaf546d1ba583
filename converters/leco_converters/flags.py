"""Settings of any source to the command line of sd-scripts' LECO trainers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leco_converters.leco_job import default_of
from leco_converters.report import Note, Report
from leco_converters.request import Plan
from leco_converters.tree import plain
from leco_plugin.config.sd_flags import FLAGS, NETWORK_ARGS, options
from leco_plugin.errors import ConfigError

_FLAGS: Mapping[str, str] = {
    **{to: flag for flag, to in reversed(list(options()))},
    "train.dtype": "mixed_precision",
    "train.optimizer": "optimizer_type",
}
_ARGS: Mapping[str, str] = {to: name for name, (_, to) in NETWORK_ARGS.items() if name != "dropout"}
_ATTENTION = {"sdpa": "sdpa", "xformers": "xformers", "mem_eff": "mem_eff_attn"}
_SPELLED: Mapping[str, Mapping[str, str]] = {
    "train.dtype": {"fp32": "no", "float32": "no", "float": "no", "float16": "fp16", "bfloat16": "bf16"},
    "save.dtype": {"float32": "float", "fp32": "float", "float16": "fp16", "bfloat16": "bf16"},
}
_ELSEWHERE = ("name", "training_folder", "output_dir", "device", "model.is_xl", "model.arch")
"""Said by the prompt file, by other flags, or by which script is run."""
_NOT_FOR_XL = ("v2", "v_parameterization", "clip_skip")


def command_line(plan: Plan, prompts: Path, name: str, model: str) -> tuple[str, Report]:
    """Return the command that trains the prompts with sd-scripts, and each setting that it has no flag for.

    Raises ConfigError where its trainers do not train the family.
    """
    settings = plan.settings
    if settings.family:
        fix = "leave --flags away, and use --job"
        raise ConfigError(f"sd-scripts' LECO trainers do not train {settings.family.title}", fix=fix)
    is_xl = plain(settings.values.get("model.is_xl")) is True
    flags: dict[str, str] = {}
    lists: dict[str, list[str]] = {"network_args": [], "optimizer_args": []}
    report, done = Report(plan.source.path), "left out of the command line"
    for option, node in settings.values.items():
        flag = _FLAGS.get(option, "")
        if option in ("sample.prompts", "sample.samples") and node.items:
            report.note("lost", node, "the command line of sd-scripts wants the prompts of pictures in a file", done)
        if option in _ELSEWHERE or option.startswith("sample."):
            continue
        if option == "memory.attention":
            flags[_ATTENTION[str(node.value)]] = ""
        elif option in _ARGS:
            lists["network_args"].append(f"{_ARGS[option]}={plain(node)}")
        elif option == "train.optimizer_params" and isinstance(node.value, dict):
            lists["optimizer_args"] += [f"{key}={_python(plain(child))}" for key, child in node.table.items()]
        elif is_xl and flag in _NOT_FOR_XL:
            if plain(node):
                report.note("lost", node, f"sdxl_train_leco.py has no --{flag}", done)
        elif flag and FLAGS[flag].kind == "switch":
            flags.update({flag: ""} if node.value is True else {})
        elif flag:
            value = plain(node)
            flags[flag] = _SPELLED.get(option, {}).get(str(value).lower(), str(value))
        elif plain(node) != default_of(option) and node.key:
            report.note("lost", node, f"the command line of sd-scripts has no flag for {option}", done)
    if (
        plan.origin != "ai-toolkit"
        and settings.values.get("model.is_xl") is None
        and not plain(settings.values.get("model.is_v2"))
    ):
        was = "the source does not say whether the model is SDXL"
        report.note("added", plan.source.root, was, "train_leco.py is written; for SDXL sdxl_train_leco.py")
    named = str(plain(settings.values.get("name")) or name)
    folder = plain(settings.values.get("training_folder")) or default_of("training_folder")
    head = {
        "pretrained_model_name_or_path": flags.pop("pretrained_model_name_or_path", "") or model or "MODEL",
        "prompts_file": prompts.as_posix(),
        "output_dir": str(plain(settings.values.get("output_dir")) or f"{folder}/{named}"),
        "output_name": named,
    }
    flags.setdefault("learning_rate", str(default_of("train.lr")))
    script = "sdxl_train_leco.py" if is_xl else "train_leco.py"
    words = ["accelerate", "launch", "--mixed_precision", flags.get("mixed_precision", "no"), script]
    words += [f"--{flag}={value}" if value else f"--{flag}" for flag, value in {**head, **flags}.items()]
    for flag, values in lists.items():
        words += [f"--{flag}", *values] if values else []
    return " ".join(map(shlex.quote, words)), report


def in_job_only(job: Sequence[Note], flags: Sequence[Note]) -> list[Note]:
    """Return what the job file carries and the command line does not."""
    lost = [f"{note.where.key}." for note in job if note.kind == "lost"]
    missing = [note for note in flags if not f"{note.where.key}.".startswith(tuple(lost))]
    done = "stands in the job file only"
    return [replace(note, kind="changed", done=done) if note.kind == "lost" else note for note in missing]


def _python(value: object) -> str:
    """Return a value as sd-scripts reads it, which takes each for one of Python's."""
    return ",".join(map(repr, value)) if isinstance(value, list) else repr(value)
