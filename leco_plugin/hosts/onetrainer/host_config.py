"""The host's config for a LECO run: read as the host reads it, refused or set right where LECO needs something else."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from leco_plugin.config.schema import LecoConfig
from leco_plugin.core.losses import LossType
from leco_plugin.engine.step import StepSettings
from leco_plugin.errors import ConfigError, ModelError, Problem, Where
from leco_plugin.hosts.onetrainer.contract import Host
from leco_plugin.hosts.onetrainer.flags import EPOCH_STEPS, Flags
from leco_plugin.hosts.onetrainer.section import read_config_file

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
_LOSSES: dict[str, LossType] = {"mse_strength": "l2", "mae_strength": "l1"}
_KEY = re.compile(r" set (\w+) as ")
_DROPPED = frozenset({"__version", "weight_dtype"})
"""Keys that mean nothing and stand in presets of the host's own, the second at the top."""
_OTHER_LOSSES = ("log_cosh_strength", "huber_strength")


def read_config(host: Host, flags: Flags) -> Any:
    """The host's config object, from preset, config and single values in the order in which the host applies them.

    Raises ConfigError for a file that cannot be read, and for a single value that the host does not take.
    """
    config = host.config.default_values()
    # beside a preset the host brings nothing up to date
    for path in filter(None, (flags.preset, flags.config)):
        _fill(config, path, migrate=flags.preset is None)
    for value in flags.values:
        _set(config, value)
    secrets = flags.secrets or flags.root / "secrets.json"
    if flags.secrets or secrets.is_file():
        config.secrets = host.secrets.default_values().from_dict(read_config_file(secrets))
    return config


def said(config: Any, flags: Flags) -> dict[str, Any]:
    """What of the config is LECO's business; the size of pictures only where the user has said it."""
    found = {name: getattr(config, name) for name in ("model_type", "base_model_name", "resolution")}
    files = [read_config_file(path) for path in (flags.preset, flags.config) if path]
    values = [value.partition("=")[0] for value in flags.values]
    # its window has a field for it
    if flags.config and not any("resolution" in names for names in (*files, values)):
        del found["resolution"]
    return found


def refuse(host: Host, config: Any) -> None:
    """Raise for what LECO cannot do in the host, before a model is loaded."""
    if config.training_method != host.method.LORA:
        raise ConfigError(
            f"the config's training method is {config.training_method}, and LECO trains a LoRA",
            fix="choose LoRA in OneTrainer and export the config again",
        )
    kind = config.model_type
    reasons = {
        "is an inpainting model, which LECO has no picture for": kind.has_conditioning_image_input(),
        "is a depth model, which LECO has no picture for": kind.has_depth_input(),
        "draws in stages": kind.is_wuerstchen(),
        "has a second network for the unconditional side": getattr(kind, "is_ideogram", bool)(),
        "is a video model": kind.is_video_model(),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ModelError(f"LECO cannot train {kind} in OneTrainer: it {reason}", fix="choose another model type")
    for name, on in (("multi_gpu", config.multi_gpu), ("cloud", config.cloud.enabled)):
        if on:
            raise ConfigError(f"LECO in OneTrainer trains on one device of this machine, and {name} is on", fix="off")
    if not str(config.output_model_format).endswith("LORA"):
        # after the training, which is lost then
        raise ConfigError(
            f"output_model_format is {config.output_model_format}, which OneTrainer does not write a LoRA in",
            fix="KOHYA_LORA for SD and SDXL, COMFY_LORA or DIFFUSERS_LORA for others",
        )
    if host.create.get_model_setup_class(kind, config.training_method) is None:
        raise ModelError(f"OneTrainer has no LoRA training for {kind}")


def adapt(host: Host, config: Any) -> Iterator[str]:
    """Set what a run without pictures needs; gives a line for each of the user's settings that this changes."""
    for name in TEXT_ENCODERS:
        part = getattr(config, name)
        if part.train and name in config.model_type.model_parts():
            yield f"{name} is not trained: LECO changes the {config.model_type.denoising_model_part()} alone"
        part.train = part.train_embedding = False
    for embedding in config.additional_embeddings:
        if embedding.train:
            yield f"the embedding {embedding.placeholder} is used, not trained"
        embedding.train = False
    for name in ("validation", "masked_training", "only_cache"):
        if getattr(config, name):
            yield f"{name} is off: there are no pictures"
        setattr(config, name, False)
    if config.debug_mode:
        yield "debug_mode is off: it draws the pictures that are trained on"
        config.debug_mode = False
    if str(config.learning_rate_scaler) in ("BATCH", "BOTH"):
        yield f"learning_rate_scaler goes by batch_size, which is {config.batch_size}, not by that of the prompts"
    if config.optimizer.fused_back_pass:
        yield "fused_back_pass is off: a step has several backward passes"
        config.optimizer.fused_back_pass = False
    if config.train_device == "cpu":
        parts = [(f"{name}.weight_dtype", getattr(config, name)) for name in config.model_type.model_parts()]
        for name, owner in [("train_dtype", config), *parts]:
            if getattr(owner, name.rpartition(".")[2]) == host.dtype.FLOAT_16:
                yield f"{name} is FLOAT_32: a CPU does not train in FLOAT_16"
                setattr(owner, name.rpartition(".")[2], host.dtype.FLOAT_32)
    config.concepts = []
    # keeps the text encoders off the device; the cache on disk belongs to the user's other runs
    config.latent_caching, config.clear_cache_before_training = True, False
    if config.samples is None and not Path(config.sample_definition_file_name).is_file():
        config.samples = []
    presets = host.create.get_model_setup_class(config.model_type, config.training_method).LAYER_PRESETS
    for filtered in (config, config.quantization):
        _resolve_layers(filtered, presets)


def step_settings(config: Any, leco: LecoConfig) -> StepSettings:
    """The step's options, from those of the host's that mean the same; ConfigError for the others that are on."""
    weight = str(config.loss_weight_fn)
    if weight not in ("CONSTANT", "MIN_SNR_GAMMA"):
        raise ConfigError(f"loss_weight_fn {weight} is not there for LECO", fix="CONSTANT or MIN_SNR_GAMMA")
    chosen = [name for name in (*_LOSSES, *_OTHER_LOSSES) if getattr(config, name)]
    if len(chosen) != 1 or chosen[0] not in _LOSSES:
        raise ConfigError(f"LECO takes one loss, and {' and '.join(chosen) or 'none'} is on", fix="mse_strength alone")
    return StepSettings(
        denoise_guidance_scale=leco.denoise_guidance_scale,
        noise_offset=config.offset_noise_weight,
        min_snr_gamma=config.loss_weight_strength if weight == "MIN_SNR_GAMMA" else None,
        loss_type=_LOSSES[chosen[0]],
        preserve_weight=leco.preserve_weight,
    )


def doubts(config: Any, steps: int) -> Iterator[str]:
    """What makes a LoRA of ``steps`` optimizer steps that does next to nothing."""
    batches = config.learning_rate_warmup_steps
    # up to 1 is a share of the run
    if batches > 1 and 2 * batches / config.gradient_accumulation_steps > steps:
        yield (
            f"learning_rate_warmup_steps is {batches:g}, and the run has {steps} steps: it learns little in most; "
            "up to 1 it is a share of the run, such as 0.1"
        )


def set_steps(config: Any, flags: Flags) -> int:
    """Set the host's epochs so that the run has ``flags.steps`` optimizer steps; gives the batches of an epoch."""
    if flags.steps is None:
        return flags.epoch_steps
    batches = flags.steps * config.gradient_accumulation_steps
    # epochs of about the usual length, since saving, sampling and backups may go by them
    length = next((n for n in range(EPOCH_STEPS, EPOCH_STEPS // 10 - 1, -1) if batches % n == 0), batches)
    config.epochs = batches // length
    return length


def _fill(config: Any, path: Path, *, migrate: bool) -> None:
    now = config.config_version
    # a file without a version is of now: the host would take it for its oldest format
    tree = {"__version": now, **read_config_file(path)}
    version = tree["__version"]
    wrong = [*_unknown(config, tree, path)] if version == now else []
    if version != now and not (migrate and isinstance(version, int) and version < now):
        reads = f"{now} and older" if migrate else f"{now} alone beside a preset"
        message = f"its version is {version}, and this OneTrainer reads {reads}"
        wrong = [Problem(Where(path), message, "update OneTrainer, or export the config again")]
    fix = "export the config again, or see its choices in OneTrainer's UI"
    if not wrong:
        rejected = _rejected(config, tree, migrate=migrate)
        wrong = [Problem(Where(path, key=name), "OneTrainer does not take this value", fix) for name in rejected]
    if wrong:
        raise ConfigError(wrong)


def _rejected(config: Any, tree: dict[str, Any], *, migrate: bool) -> list[str]:
    """Set what ``tree`` says; gives the keys whose values the host leaves out, which it says on its output alone."""
    with redirect_stdout(io.StringIO()) as said:
        config.from_dict(tree, migrate=migrate)
    return [found[1] if (found := _KEY.search(line)) else line for line in said.getvalue().splitlines()]


def _unknown(config: Any, tree: Mapping[str, Any], path: Path, above: str = "") -> Iterator[Problem]:
    """Keys that the host would leave out without a word."""
    types: Mapping[str, Any] = getattr(config, "types", {})
    for key, value in tree.items():
        if key not in types and key not in _DROPPED:
            near = get_close_matches(key, types, 1)
            fix = f"did you mean {near[0]!r}?" if near else "remove it"
            yield Problem(Where(path, key=f"{above}{key}"), "OneTrainer has no such value", fix)
        elif isinstance(value, dict) and hasattr(getattr(config, key, None), "types"):
            yield from _unknown(getattr(config, key), value, path, f"{above}{key}.")


def _set(config: Any, argument: str) -> None:
    """Set one value by its dotted key."""
    key, equals, text = argument.partition("=")
    *above, leaf = key.split(".")
    target = config
    for name in above:
        target = getattr(target, name, None)
    types = getattr(target, "types", {})
    if not equals or leaf not in types:
        raise ConfigError(f"--config-value {argument}: OneTrainer has no such value", fix="write KEY=VALUE")
    value: object = text.lower() in ("true", "1", "yes") if types[leaf] is bool else text
    if _rejected(target, {leaf: value}, migrate=False):
        raise ConfigError(f"--config-value {argument}: OneTrainer does not take that value")
    if key == "layer_filter":
        config.layer_filter_preset = "custom"


def _resolve_layers(filtered: Any, presets: dict[str, Any]) -> None:
    """What the host's UI does when a preset is chosen, and its command line does not."""
    if filtered.layer_filter_preset == "custom":
        return
    name = filtered.layer_filter_preset if filtered.layer_filter_preset in presets else next(iter(presets))
    chosen = presets[name]
    regex = isinstance(chosen, dict) and bool(chosen.get("regex", False))
    patterns = chosen.get("patterns", []) if isinstance(chosen, dict) else chosen
    filtered.layer_filter, filtered.layer_filter_regex = ",".join(patterns), regex
