"""A config that OneTrainer trains with, in its own words, and nothing in it that a LECO run does not go by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leco_plugin.config.defaults import title_of
from leco_plugin.config.fit import Fit
from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import ConfigError


@dataclass(frozen=True)
class _Type:
    """How the host calls a family."""

    name: str
    encoders: int = 1
    layers: str = "attn-mlp"
    """Its preset of the layers that get the LoRA."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Other types, by what is in the names of their models."""

    def of(self, model: str) -> str:
        """The host's type of this model."""
        others = (kind for part, kind in self.called.items() if part in model.lower())
        return next(others, self.name)


_SD2 = "STABLE_DIFFUSION_2"
TYPES: Mapping[str, _Type] = {
    "sd1": _Type("STABLE_DIFFUSION_15"),
    "sd2": _Type(f"{_SD2}1", called={"2-1-base": f"{_SD2}1_BASE", "2-base": f"{_SD2}0_BASE"}),
    "sdxl": _Type("STABLE_DIFFUSION_XL_10_BASE", 2),
    "sd3": _Type("STABLE_DIFFUSION_3", 3, "blocks", {"3.5": "STABLE_DIFFUSION_35", "35": "STABLE_DIFFUSION_35"}),
    "flux": _Type("FLUX_DEV_1", 2),
    "flux2": _Type("FLUX_2", layers="blocks"),
    "flux2_klein": _Type("FLUX_2", layers="blocks"),
    "chroma": _Type("CHROMA_1"),
    "qwen_image": _Type("QWEN"),
    "krea2": _Type("KREA_2"),
    "z_image": _Type("Z_IMAGE"),
}
_UNETS = ("sd1", "sd2", "sdxl")
_OFFLOADED = 0.6
"""Share of the layers that stay in main memory, as in the host's own presets for small cards."""


def host_config(job: JobConfig, family: str | None, fit: Fit, *, on_cpu: bool) -> str:
    """The config as JSON; ConfigError where the host does not train the family, or it is not known."""
    model = job.model.name_or_path
    kind = TYPES.get(family or "")
    if kind is None:
        found = f"OneTrainer does not train {title_of(family)}" if family else f"it cannot be told what {model} is"
        raise ConfigError(found, fix="choose another trainer, or export a config from OneTrainer's window")
    unet = family in _UNETS
    precise = "FLOAT_32" if on_cpu else "FLOAT_16" if unet else "BFLOAT_16"
    held = {"weight_dtype": "FLOAT_8" if fit.eight_bits else precise}
    denoiser = {**held, "gradient_checkpointing": fit.checkpointing}
    if fit.offload:
        denoiser |= {"offload_fraction": _OFFLOADED, "activation_offloading": True}
    encoders = [f"text_encoder_{number}" if number > 1 else "text_encoder" for number in range(1, kind.encoders + 1)]
    folder, local = job.output_folder.absolute(), Path(model).expanduser()
    config: dict[str, object] = {
        "training_method": "LORA",
        "model_type": kind.of(model),
        "base_model_name": str(local.absolute()) if local.exists() else model,
        # absolute: the host takes paths as relative to its own folder
        "output_model_destination": str(folder / f"{job.name}.safetensors"),
        "output_model_format": "KOHYA_LORA" if unet else "DIFFUSERS_LORA",
        "workspace_dir": str(folder / "workspace"),
        "cache_dir": str(folder / "cache"),
        "resolution": str(job.pairs[0].resolution[0]),
        "learning_rate": job.train.learning_rate,
        "learning_rate_warmup_steps": 0,
        "lora_rank": job.network.linear,
        "lora_alpha": job.network.linear_alpha,
        "layer_filter_preset": kind.layers,
        "train_dtype": "FLOAT_32" if on_cpu else "BFLOAT_16",
        "unet" if unet else "transformer": denoiser,
        **{name: {"train": False, **held} for name in encoders},
        "vae": {"weight_dtype": "FLOAT_32"},
    }
    if on_cpu:
        config["train_device"] = "cpu"
    if fit.eight_bits:
        config["quantization"] = {"layer_filter_preset": "blocks"}
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
