"""A preset that kohya_ss' LECO tab saves (JSON), as the settings file that the tab writes for sd-scripts from it."""

from __future__ import annotations

from collections.abc import Mapping

from leco_plugin.config.findings import Findings

_OFF_AT_0 = frozenset({
    "network_dropout", "unet_lr", "max_train_steps", "seed", "clip_skip", "noise_offset", "min_snr_gamma",
    "save_every_n_steps", "save_last_n_steps", "save_last_n_steps_state",
})  # fmt: skip
_LISTS = ("network_args", "optimizer_args", "lr_scheduler_args")
_LAUNCH: Mapping[str, tuple[object, ...]] = {
    "num_processes": (0, 1),
    "num_machines": (0, 1),
    "multi_gpu": (False,),
    "gpu_ids": ("", "0"),
    "extra_accelerate_launch_args": ("",),
    "num_cpu_threads_per_process": (),
    "main_process_port": (),
    "dynamo_mode": (),
    "dynamo_use_fullgraph": (),
    "dynamo_use_dynamic": (),
}
"""What only `accelerate launch` reads; where values are listed, others ask for several processes, which it starts."""


def settings_of_preset(preset: Mapping[str, object], findings: Findings, *, sdxl: bool) -> dict[str, object]:
    """Flags by name; what cannot be followed is noted."""
    if "prompts_file" not in preset:
        findings.error((), "this is a preset for training from images", "save one in kohya_ss' LECO tab")
        return {}
    if bool(preset.get("sdxl")) is not sdxl:
        module = "train_leco" if sdxl else "sdxl_train_leco"
        findings.error(("sdxl",), "the model is of another kind than this command is for", f"use leco_plugin.{module}")
    settings: dict[str, object] = {}
    for name, value in preset.items():
        if name in _LAUNCH:
            if _LAUNCH[name] and value not in (None, *_LAUNCH[name]):
                findings.error(
                    (name,),
                    "only `accelerate launch` starts several processes",
                    "give it that option, and take this out",
                )
        elif not (name in _OFF_AT_0 and value == 0):
            settings[name] = value.replace('"', "").split() if name in _LISTS and isinstance(value, str) else value
    settings.pop("sdxl", None)
    settings["optimizer_type"] = settings.pop("optimizer", None)
    findings.places["optimizer_type",] = findings.where(("optimizer",))
    attention = settings.pop("xformers", None)
    settings |= {"xformers": attention == "xformers", "sdpa": attention == "sdpa"}
    if sdxl:
        # the tab greys them out, and keeps what they were
        settings |= dict.fromkeys(("v2", "v_parameterization", "clip_skip"))
    return settings
