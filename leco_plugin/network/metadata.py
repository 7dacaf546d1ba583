"""What a LoRA file says about itself, in the words that A1111, Civitai and the trainers look for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from leco_plugin import __version__
from leco_plugin.config.families import architecture
from leco_plugin.config.schema import JobConfig, LecoConfig, PromptPair
from leco_plugin.errors import ConfigError

# a plugin may bring a family of its own, which is then called what the plugin calls it
_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
_ARCHITECTURES = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2-512", "sdxl": "stable-diffusion-xl-v1-base"}
SIDECAR_WEIGHT = "preferred weight"
_MOST_CHANGES = 4
"""Pairs that a description names."""
_V_ARCHITECTURES = {"sd2": "stable-diffusion-v2-768-v"}


def run_metadata(
    job: JobConfig, *, family: str, prediction_type: str, seed: int, step: int, distilled: bool = False
) -> dict[str, str]:
    """Metadata of a file that ``job`` wrote after ``step`` optimizer steps with ``seed``; strings only.

    ``distilled`` is for a model that takes few steps, such as a turbo.

    Holds no path, user or host name, and no time, so that equal runs give equal files; only where the
    environment sets SOURCE_DATE_EPOCH (https://reproducible-builds.org) is that the date.
    """
    return {
        **_model(job, family, prediction_type, distilled),
        **_training(job, seed, step),
        **leco_metadata(job.pairs, job.leco, job.train.noise_scheduler),
        **{f"ss_leco_meta_{key}": value.replace("[name]", job.name) for key, value in job.meta.items()},
        **_date(),
    }


def effect_metadata(figures: Mapping[str, float | None]) -> dict[str, str]:
    """What the training, or a later measurement, says of a file at strength 1, as far as it was measured."""
    return {f"ss_leco_{name}": f"{figure:.3f}" for name, figure in figures.items() if figure is not None}


def _model(job: JobConfig, family: str, prediction_type: str, distilled: bool) -> dict[str, str]:
    height, width = max(pair.resolution for pair in job.pairs)
    v_model = prediction_type == "v_prediction"
    version = _BASE_VERSIONS.get(family, family)
    own = _ARCHITECTURES.get(family) or architecture(family, distilled=distilled)
    return {
        # sd-scripts has no name of its own for SDXL models that predict v
        "ss_base_model_version": f"{version}_v" if v_model and family in ("sd1", "sd2") else version,
        "ss_v2": str(family == "sd2"),
        "ss_v_parameterization": str(v_model),
        "ss_sd_model_name": model_name(job.model.name_or_path),
        "ss_output_name": job.name,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{_V_ARCHITECTURES.get(family, own) if v_model else own}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": {"v_prediction": "v"}.get(prediction_type, prediction_type),
    }


def _training(job: JobConfig, seed: int, step: int) -> dict[str, str]:
    train = job.train
    return {
        "ss_seed": str(seed),
        "ss_steps": str(step),
        "ss_max_train_steps": str(train.steps),
        "ss_learning_rate": f"{train.lr:g}",
        "ss_unet_lr": f"{train.learning_rate:g}",
        "ss_lr_scheduler": train.lr_scheduler,
        "ss_lr_warmup_steps": str(train.lr_warmup_steps),
        "ss_optimizer": train.optimizer,
        "ss_gradient_accumulation_steps": str(train.gradient_accumulation),
        "ss_gradient_checkpointing": str(train.gradient_checkpointing),
        "ss_max_grad_norm": f"{train.max_grad_norm:g}",
        "ss_min_snr_gamma": "None" if train.min_snr_gamma is None else f"{train.min_snr_gamma:g}",
        "ss_noise_offset": f"{train.noise_offset:g}",
        "ss_mixed_precision": {"fp32": "no"}.get(train.dtype, train.dtype),
    }


def leco_metadata(pairs: Sequence[PromptPair], leco: LecoConfig, sampler: str) -> dict[str, str]:
    """What a file says of LECO, whichever host wrote it; ``sampler`` is that of the walk."""
    return {
        "ss_leco_version": __version__,
        "ss_leco_prompt_count": str(len(pairs)),
        "ss_leco_pairs": json.dumps([pair.model_dump(mode="json") for pair in pairs], ensure_ascii=False),
        "ss_leco_noise_scheduler": sampler,
        "ss_leco_max_denoising_steps": str(leco.max_denoising_steps),
        "ss_leco_denoise_guidance_scale": f"{leco.denoise_guidance_scale:g}",
        **({"ss_leco_preserve": json.dumps(leco.preserve, ensure_ascii=False)} if leco.preserve else {}),
        **_usage([pair for pair in pairs if not pair.keeps]),
    }


def _usage(asking: Sequence[PromptPair]) -> dict[str, str]:
    """How the file is used, for SwarmUI and other readers of modelspec; a LECO LoRA has no trigger word."""
    strength = max((abs(pair.multiplier) for pair in asking), default=1.0)
    both_ways = any(pair.multiplier < 0 for pair in asking) and any(pair.multiplier > 0 for pair in asking)
    hint = f"a slider, strength {-strength:g} to {strength:g}" if both_ways else f"strength {strength:g}"
    changes = list(dict.fromkeys(f"{pair.action} {pair.positive!r} in {pair.target!r}" for pair in asking))
    more = f"; and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
    return {
        "modelspec.description": f"LECO: {'; '.join(changes[:_MOST_CHANGES]) or 'keeps all as it is'}{more}",
        "modelspec.usage_hint": f"{hint}; no trigger word",
        "modelspec.lora_default_weight": f"{strength:g}",
    }


def sidecar(metadata: Mapping[str, str]) -> bytes:
    """NAME.json beside a LoRA with this ``metadata``, with the keys that A1111, Forge and InvokeAI read."""
    version, v2 = metadata.get("ss_base_model_version", ""), metadata.get("ss_v2") == "True"
    family = "SDXL" if version.startswith("sdxl") else "SD2" if v2 else "SD1" if version == "sd_v1" else "Unknown"
    said = {
        "description": metadata.get("modelspec.description", ""),
        "sd version": family,
        "activation text": "",
        SIDECAR_WEIGHT: float(metadata.get("modelspec.lora_default_weight", "1")),
        "negative text": "",
        "notes": metadata.get("modelspec.usage_hint", ""),
    }
    return (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode()


def is_sidecar(path: Path) -> bool:
    """Whether ``path`` is such a file, and so may be replaced."""
    try:
        return path.is_file() and f'"{SIDECAR_WEIGHT}"'.encode() in path.read_bytes()
    except OSError:
        return False


def model_name(name_or_path: str) -> str:
    """A hub id or built-in name as it is; of a path only its last part, which tells nothing of the machine."""
    looks_like_path = "\\" in name_or_path or name_or_path.count("/") > 1 or Path(name_or_path).exists()
    return name_or_path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if looks_like_path else name_or_path


def _date() -> dict[str, str]:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return {}
    if not epoch.isdigit():
        raise ConfigError("the environment variable SOURCE_DATE_EPOCH is not a number of seconds", fix="unset it")
    return {"modelspec.date": datetime.fromtimestamp(int(epoch), timezone.utc).isoformat()}
