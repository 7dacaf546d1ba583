"""What the adapter calls and overrides in OneTrainer, and nothing else of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from leco_plugin.errors import PluginError

MODULES = {
    "create": "modules.util.create",
    "trainer": "modules.trainer.GenericTrainer:GenericTrainer",
    "config": "modules.util.config.TrainConfig:TrainConfig",
    "sample": "modules.util.config.SampleConfig:SampleConfig",
    "secrets": "modules.util.config.SecretsConfig:SecretsConfig",
    "method": "modules.util.enum.TrainingMethod:TrainingMethod",
    "dtype": "modules.util.enum.DataType:DataType",
    "callbacks": "modules.util.callbacks.TrainCallbacks:TrainCallbacks",
    "commands": "modules.util.commands.TrainCommands:TrainCommands",
    "grad_scaling": "modules.util.dtype_util:enable_grad_scaling",
}
"""What is imported: a module, or after a colon the class or function in it."""
METHODS = {
    "modules.trainer.BaseTrainer:BaseTrainer": (
        "create_model_setup",
        "create_data_loader",
        "create_model_saver",
        "create_model_sampler",
    ),
    "modules.modelSetup.BaseModelSetup:BaseModelSetup": (
        "setup_model",
        "setup_train_device",
        "predict",
        "calculate_loss",
        "prior_model",
        "report_to_tensorboard",
    ),
    "modules.modelSetup.mixin.ModelSetupNoiseMixin:ModelSetupNoiseMixin": ("_create_noise", "_get_timestep_discrete"),
    "modules.modelSetup.mixin.ModelSetupDiffusionMixin:ModelSetupDiffusionMixin": ("_add_noise_discrete",),
    "modules.modelSetup.mixin.ModelSetupFlowMatchingMixin:ModelSetupFlowMatchingMixin": ("_add_noise_discrete",),
    "modules.model.BaseModel:BaseModel": ("adapters",),
    "modules.util.enum.ModelType:ModelType": ("model_parts", "denoising_model_part", "is_flow_matching"),
    "modules.modelSetup.StableDiffusionXLLoRASetup:StableDiffusionXLLoRASetup": (
        "LAYER_PRESETS",
        "prepare_text_caching",
    ),
    "modules.util.create": ("get_model_setup_class",),
}
"""What is called or overridden, by the class or module that has it."""


class Host(SimpleNamespace):
    """The host's classes and functions, by the names in ``MODULES``."""


Base: Any = object
"""Base of the mixins: of what they call above them, the host's own class is what answers."""


def enter(root: Path) -> Host:
    """Import the host from its folder, which becomes the working directory: its paths are relative to that.

    Raises PluginError where it is not there, or another package called ``modules`` is in its place.
    """
    if not (root / "modules" / "trainer" / "GenericTrainer.py").is_file():
        raise PluginError(f"{root} is not a OneTrainer folder", fix="name the folder that holds its 'modules'")
    loaded = sys.modules.get("modules")
    if loaded is not None and root not in map(Path, _folders(loaded)):
        raise PluginError("another package called 'modules' is loaded already", fix="start OneTrainer on its own")
    sys.path.insert(0, str(root))
    os.chdir(root)
    try:
        return Host(**{name: _find(place) for name, place in MODULES.items()})
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise PluginError(
            f"OneTrainer cannot be imported: {error}", fix=f"leco host check onetrainer {root}"
        ) from error


def lacking() -> list[str]:
    """What an imported host lacks of ``METHODS``, and of how its configs are read."""
    read = signature(_find(MODULES["config"]).from_dict).parameters
    found = [] if "migrate" in read else ["TrainConfig.from_dict(migrate=)"]
    return found + [
        f"{place.rpartition(':')[2]}.{name}"
        for place, names in METHODS.items()
        for name in names
        if not hasattr(_find(place), name)
    ]


def _find(place: str) -> Any:
    module, _, name = place.partition(":")
    found = import_module(module)
    return getattr(found, name) if name else found


def _folders(package: Any) -> Iterator[Path]:
    return (Path(path).parent for path in getattr(package, "__path__", []))
