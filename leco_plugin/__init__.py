"""LECO for existing trainers: prompts in, a LoRA out that erases, strengthens or slides a concept."""

from leco_plugin.errors import ConfigError, LecoError, ModelError, NetworkError, PluginError, TrainingError
from leco_plugin.hookspecs import hookimpl, hookspec

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "LecoError",
    "ModelError",
    "NetworkError",
    "PluginError",
    "TrainingError",
    "__version__",
    "hookimpl",
    "hookspec",
]
