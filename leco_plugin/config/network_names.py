"""What other trainers call their networks, in the words of `network:`; no torch."""

from __future__ import annotations

from collections.abc import Mapping

from leco_plugin.config.findings import did_you_mean
from leco_plugin.errors import ConfigError

_TYPES = ("lora", "dora", "loha", "lokr")
_LYCORIS = ("lycoris.kohya",)
_ALGORITHMS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
_MODULES = {"networks.lora": "lora", "locon.locon_kohya": "lora", "networks.loha": "loha", "networks.lokr": "lokr"}
_NUMBERS: Mapping[str, tuple[str, type]] = {
    "conv_dim": ("conv", int),
    "conv_alpha": ("conv_alpha", float),
    "dropout": ("dropout", float),
    "rank_dropout": ("rank_dropout", float),
    "module_dropout": ("module_dropout", float),
}
_TRUE = ("true", "1", "yes")


def network_options(module: str, arguments: Mapping[str, str]) -> dict[str, object]:
    """The options of `network:` that sd-scripts' network_module and network_args (key -> text) stand for.

    Names of sd-scripts, LyCORIS and our own are known. Raises ConfigError for any other module or argument, with
    what there is.
    """
    rest = dict(arguments)
    options: dict[str, object] = {"type": _type(module, rest)}
    for name, text in rest.items():
        if name not in _NUMBERS:
            known = sorted(_NUMBERS) + (["algo", "dora_wd"] if module in _LYCORIS else [])
            guess = did_you_mean(name, known)
            fix = f"did you mean '{guess}'?" if guess else f"there are {', '.join(known)}"
            raise ConfigError(f"network_args: {name} is no argument of {module}", fix=fix)
        ours, kind = _NUMBERS[name]
        try:
            options[ours] = kind(text)
        except ValueError:
            message = f"network_args: {name} must be a number, not '{text}'"
            raise ConfigError(message, fix=f"write {name}=4") from None
    return options


def _type(module: str, rest: dict[str, str]) -> str:
    """Our type of network; the arguments that decide on it are taken out of ``rest``."""
    if module in _TYPES:
        return module
    if module in _MODULES:
        return _MODULES[module]
    if module not in _LYCORIS:
        known = ", ".join([*_MODULES, _LYCORIS[0]])
        message = f"network_module {module} is not there"
        raise ConfigError(message, fix=f"use one of {known}, or {', '.join(_TYPES)}")
    algorithm = rest.pop("algo", "lora").lower()
    if algorithm not in _ALGORITHMS:
        message = f"network_args: the algo {algorithm} is not there"
        raise ConfigError(message, fix=f"use one of {', '.join(_ALGORITHMS)}")
    decomposed = rest.pop("dora_wd", "false").lower() in _TRUE
    found = _ALGORITHMS[algorithm]
    if decomposed and found != "lora":
        raise ConfigError(f"network_args: dora_wd is there for algo=lora only, not {algorithm}", fix="take it out")
    return "dora" if decomposed else found
