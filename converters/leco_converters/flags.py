"""Settings of any source to the command line of sd-scripts' LECO trainers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leco_converters.foreign import TABLE
from leco_converters.jobs import default_of
from leco_converters.model import Settled
from leco_converters.report import Note, Report
from leco_converters.settings import Plan
from leco_converters.tree import Node, plain
from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.sd_flags import FLAGS, NETWORK_ARGS, options
from leco_plugin.errors import ConfigError

_FLAGS: Mapping[str, str] = {
    **{to: flag for flag, to in reversed(list(options()))},
    "train.dtype": "mixed_precision",
    "train.optimizer": "optimizer_type",
}
_ARGS: Mapping[str, str] = {to: name for name, (_, to) in NETWORK_ARGS.items() if name != "dropout"}
_ATTENTION = {"sdpa": "sdpa", "xformers": "xformers", "mem_eff": "mem_eff_attn"}
_ELSEWHERE = ("name", "training_folder", "output_dir", "device", "model.is_xl", "model.arch")
"""Said by the prompt file, by other flags, or by which script is run."""
_NOT_FOR_XL = ("v2", "v_parameterization", "clip_skip")


def command_line(plan: Plan, prompts: Path, model: Settled) -> tuple[str, Report]:
    """Return the command that trains the prompts with sd-scripts, and each setting that it has no flag for.

    Raises ConfigError where its trainers do not train the family.
    """
    settings, report = plan.settings, Report(plan.source.path)
    family = settings.family or FLOW_FAMILIES.get(model.family or "")
    if family:
        fix = "leave --flags away, and use --job"
        raise ConfigError(f"sd-scripts' LECO trainers do not train {family.title}", fix=fix)
    said = {option: plain(node) for option, node in settings.values.items()}
    is_xl = said.get("model.is_xl") is True or model.family == "sdxl"
    flags: dict[str, str] = {}
    lists: dict[str, list[str]] = {"network_args": [], "optimizer_args": []}
    for option, node in settings.values.items():
        _take(option, node, is_xl, flags, lists, report)
    if plan.origin != "ai-toolkit" and said.get("model.is_xl") is None and model.family is None:
        report.say("which_script", plan.source.root)
    named = plan.name
    folder = said.get("training_folder") or default_of("training_folder")
    head = {
        "pretrained_model_name_or_path": flags.pop("pretrained_model_name_or_path", "")
        or model.job.model.name_or_path
        or "MODEL",
        "prompts_file": prompts.as_posix(),
        "output_dir": str(said.get("output_dir") or f"{folder}/{named}"),
        "output_name": named,
    }
    flags.setdefault("learning_rate", str(default_of("train.lr")))
    script = "sdxl_train_leco.py" if is_xl else "train_leco.py"
    words = ["accelerate", "launch", "--mixed_precision", flags.get("mixed_precision", "no"), script]
    words += [f"--{flag}={value}" if value else f"--{flag}" for flag, value in {**head, **flags}.items()]
    for flag, values in lists.items():
        words += [f"--{flag}", *values] if values else []
    return " ".join(map(shlex.quote, words)), report


def _take(
    option: str, node: Node, is_xl: bool, flags: dict[str, str], lists: dict[str, list[str]], report: Report
) -> None:
    """Add the flag of one setting, or a note where there is none."""
    flag, value = _FLAGS.get(option, ""), plain(node)
    if option in ("sample.prompts", "sample.samples") and node.items:
        report.say("sample_file", node)
    elif option in _ELSEWHERE or option.startswith("sample."):
        pass
    elif option == "memory.attention":
        flags[_ATTENTION[str(value)]] = ""
    elif option in _ARGS:
        lists["network_args"].append(f"{_ARGS[option]}={value}")
    elif option == "train.optimizer_params" and isinstance(value, dict):
        # sd-scripts takes each for a value of Python's
        lists["optimizer_args"] += [
            f"{key}={','.join(map(repr, one)) if isinstance(one, list) else repr(one)}" for key, one in value.items()
        ]
    elif is_xl and flag in _NOT_FOR_XL:
        if value:
            report.say("no_xl_flag", node, flag=flag)
    elif flag and FLAGS[flag].kind == "switch":
        flags.update({flag: ""} if value is True else {})
    elif flag:
        flags[flag] = TABLE["spelled"]["flags"].get(option, {}).get(str(value).lower(), str(value))
    elif value != default_of(option) and node.key:
        report.say("no_flag", node, option=option)


def in_job_only(job: Sequence[Note], flags: Sequence[Note]) -> list[Note]:
    """Return what the job file carries and the command line does not."""
    lost = [f"{note.where.key}." for note in job if note.kind == "lost"]
    missing = [note for note in flags if not f"{note.where.key}.".startswith(tuple(lost))]
    done = "stands in the job file only"
    return [replace(note, kind="changed", done=done) if note.kind == "lost" else note for note in missing]
