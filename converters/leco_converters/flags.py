"""Settings of any source to the command line of sd-scripts' LECO trainers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from leco_converters.request import Plan
from leco_converters.settings import HARMLESS, Name, Outcome
from leco_converters.tree import Node, plain

_VALUES: Mapping[Name, str] = {
    ("model", "name_or_path"): "pretrained_model_name_or_path",
    ("network", "linear"): "network_dim",
    ("network", "rank"): "network_dim",
    ("network", "linear_alpha"): "network_alpha",
    ("network", "alpha"): "network_alpha",
    ("network", "dropout"): "network_dropout",
    ("network", "pretrained_lora_path"): "network_weights",
    ("network", "network_weights"): "network_weights",
    ("train", "steps"): "max_train_steps",
    ("train", "lr"): "learning_rate",
    ("train", "unet_lr"): "unet_lr",
    ("train", "optimizer"): "optimizer_type",
    ("train", "lr_scheduler"): "lr_scheduler",
    ("train", "lr_warmup_steps"): "lr_warmup_steps",
    ("train", "gradient_accumulation"): "gradient_accumulation_steps",
    ("train", "gradient_accumulation_steps"): "gradient_accumulation_steps",
    ("train", "lr_decay_steps"): "lr_decay_steps",
    ("train", "lr_scheduler_num_cycles"): "lr_scheduler_num_cycles",
    ("train", "lr_scheduler_power"): "lr_scheduler_power",
    ("train", "lr_scheduler_min_lr_ratio"): "lr_scheduler_min_lr_ratio",
    ("train", "loss_type"): "loss_type",
    ("train", "huber_c"): "huber_c",
    ("train", "huber_schedule"): "huber_schedule",
    ("train", "max_grad_norm"): "max_grad_norm",
    ("train", "min_snr_gamma"): "min_snr_gamma",
    ("train", "noise_offset"): "noise_offset",
    ("train", "max_denoising_steps"): "max_denoising_steps",
    ("train", "dtype"): "mixed_precision",
    ("leco", "max_denoising_steps"): "max_denoising_steps",
    ("leco", "denoise_guidance_scale"): "leco_denoise_guidance_scale",
    ("model", "clip_skip"): "clip_skip",
    ("model", "max_token_length"): "max_token_length",
    ("save", "format"): "save_model_as",
    ("save", "save_last_n_steps"): "save_last_n_steps",
    ("save", "training_comment"): "training_comment",
    ("save", "save_every"): "save_every_n_steps",
    ("save", "dtype"): "save_precision",
}
_SWITCHES: Mapping[Name, str] = {
    ("model", "is_v2"): "v2",
    ("model", "is_v_pred"): "v_parameterization",
    ("train", "gradient_checkpointing"): "gradient_checkpointing",
    ("train", "xformers"): "xformers",
    ("train", "sdp"): "sdpa",
    ("model", "zero_terminal_snr"): "zero_terminal_snr",
    ("save", "no_metadata"): "no_metadata",
    ("network", "dim_from_weights"): "dim_from_weights",
    ("memory", "fp8_base"): "fp8_base",
    ("memory", "torch_compile"): "torch_compile",
    ("memory", "lowram"): "lowram",
}
_ATTENTION = {"sdpa": "sdpa", "xformers": "xformers", "mem_eff": "mem_eff_attn"}
_NETWORK_ARGS: Mapping[Name, str] = {
    ("network", "conv"): "conv_dim",
    ("network", "conv_alpha"): "conv_alpha",
    ("network", "rank_dropout"): "rank_dropout",
    ("network", "module_dropout"): "module_dropout",
}
_SINGLE = {"training_seed": "seed", "log_dir": "logging_dir"}
_MIXED = {"fp32": "no", "float32": "no", "float": "no", "float16": "fp16", "bfloat16": "bf16"}
_SAVED = {"float32": "float", "fp32": "float", "float16": "fp16", "bfloat16": "bf16"}
_OPTIMIZERS = {"adamw": "AdamW", "adamw8bit": "AdamW8bit", "adam8bit": "AdamW8bit", "lion": "Lion"}
_OPTIMIZERS |= {"adafactor": "Adafactor", "lion8bit": "Lion8bit", "prodigy": "Prodigy"}
_SPELLED = {"mse": "l2", "mae": "l1"}
_ELSEWHERE = {("train", "batch_size"), ("network", "type"), ("model", "is_xl"), ("model", "arch")}
"""Said by the prompt file, by other flags, or by which script is run."""


def command_line(plan: Plan, prompts: Path, name: str, model: str) -> tuple[str, list[Outcome]]:
    """Return the command that trains the prompts with sd-scripts, and each setting that it has no flag for."""
    flags: dict[str, str | None] = {}
    outcomes: list[Outcome] = []
    network: list[str] = []
    config = plan.job.table["config"].table if plan.job else {}
    process = plan.process.table if plan.process else {}
    for section, node in process.items():
        if node.left_out or section in ("type", "device", "training_folder", "output_dir"):
            continue
        if section in _SINGLE:
            flags[_SINGLE[section]] = str(plain(node))
        elif not isinstance(node.value, dict):
            outcomes.append(_no_flag(node))
        for key, child in node.table.items():
            if not child.left_out:
                _setting((section, key), child, flags, network, outcomes)
    for key, node in config.items():
        if key in _SINGLE:
            flags[_SINGLE[key]] = str(plain(node))
    if network:
        flags["network_args"] = None
    if not flags.get("pretrained_model_name_or_path"):
        flags["pretrained_model_name_or_path"] = model or "MODEL"
    head = {
        "pretrained_model_name_or_path": flags.pop("pretrained_model_name_or_path"),
        "prompts_file": prompts.as_posix(),
        "output_dir": _output_dir(config, process, name),
        "output_name": str(config["name"].value) if "name" in config else name,
    }
    flags.setdefault("learning_rate", "0.0001")
    script = "sdxl_train_leco.py" if _is_xl(plan) else "train_leco.py"
    if script.startswith("sdxl"):
        for unknown in ("v2", "v_parameterization", "clip_skip"):
            flags.pop(unknown, None)
    mixed = flags.get("mixed_precision") or "no"
    words = ["accelerate", "launch", "--mixed_precision", mixed, script]
    for flag, value in {**head, **flags}.items():
        words += [f"--{flag}", *network] if flag == "network_args" else [f"--{flag}" + (f"={value}" if value else "")]
    return " ".join(map(shlex.quote, words)), outcomes


def _setting(name: Name, node: Node, flags: dict[str, str | None], network: list[str], outcomes: list[Outcome]) -> None:
    value = plain(node)
    if name == ("memory", "attention") and value in _ATTENTION:
        flags[_ATTENTION[str(value)]] = None
    elif name in _NETWORK_ARGS and value:
        network.append(f"{_NETWORK_ARGS[name]}={value}")
    elif name in _SWITCHES:
        if value is True:
            flags[_SWITCHES[name]] = None
    elif name in _VALUES and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        flags[_VALUES[name]] = _spelled(name, value)
    elif name not in _ELSEWHERE and not (name in HARMLESS and HARMLESS[name] == value) and value is not None:
        outcomes.append(_no_flag(node))


def _spelled(name: Name, value: str | int | float) -> str:
    text = str(value)
    known = {("train", "dtype"): _MIXED, ("save", "dtype"): _SAVED, ("train", "optimizer"): _OPTIMIZERS}
    known[("train", "loss_type")] = _SPELLED
    return known.get(name, {}).get(text.lower(), text)


def _output_dir(config: Mapping[str, Node], process: Mapping[str, Node], name: str) -> str:
    """Return the folder that the source's trainer writes into."""
    if "output_dir" in process:
        return str(process["output_dir"].value)
    folder = process.get("training_folder", config.get("training_folder", Node("output")))
    return f"{folder.value}/{config['name'].value if 'name' in config else name}"


def _is_xl(plan: Plan) -> bool:
    is_xl, arch = plan.setting("model", "is_xl"), plan.setting("model", "arch")
    return bool(is_xl and is_xl.value is True) or bool(arch and str(arch.value).split(":")[0] == "sdxl")


def _no_flag(node: Node) -> Outcome:
    return Outcome(node, "lost", "the command line of sd-scripts has no flag for it", "left out of the command line")
