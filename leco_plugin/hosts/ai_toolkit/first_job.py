"""What a job needs to say besides so that ai-toolkit trains it: in the host's words, which its config loader reads."""

from __future__ import annotations

from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.fit import Fit
from leco_plugin.config.window_keys import EMPTY
from leco_plugin.errors import ConfigError
from leco_plugin.families.flow.facts import read_config
from leco_plugin.hosts.ai_toolkit.architectures import check_architecture

_OFFLOADS = frozenset({"flux2", "flux2_klein_4b", "flux2_klein_9b", "krea2", "qwen_image", "zimage"})
"""Families that the host can hold in main memory layer by layer; read off their loaders, version 0.12.26."""
_UNETS = ("sd1", "sd2", "sdxl")


def host_options(family: str | None, name: str, fit: Fit, *, on_cpu: bool) -> dict[str, object]:
    """By dotted option, for the model ``name`` of ``family``; ConfigError where the host does not train it."""
    own: dict[str, object] = {"device": "cpu" if on_cpu else "cuda:0", **EMPTY, "train.optimizer": "adamw"}
    if family in _UNETS:
        own["train.noise_scheduler"] = "ddim"
        if family != "sd1":
            own["model.is_xl" if family == "sdxl" else "model.is_v2"] = True
        if family == "sd2" and _predicts_v(name):
            own["model.is_v_pred"] = True
        return own
    if family is None or family not in FLOW_FAMILIES:
        fix = "write model.arch into a job of your own (docs/ai-toolkit.md has the names)"
        raise ConfigError(f"it cannot be told what {name} is, and ai-toolkit has to be told", fix=fix)
    archs = FLOW_FAMILIES[family].archs
    arch = next((arch for arch in archs if arch.rpartition("_")[2] in name.lower()), archs[0]) if archs else family
    check_architecture(arch)
    own |= {"train.noise_scheduler": "flowmatch", "model.arch": arch}
    if fit.eight_bits:
        own |= {"model.quantize": True, "model.quantize_te": True, "model.low_vram": True}
    if fit.offload and arch in _OFFLOADS:
        own["model.layer_offloading"] = True
    return own


def _predicts_v(name: str) -> bool:
    """What its files say; of a model of the hub that is not here, what its name does."""
    said = read_config(name, "scheduler/scheduler_config.json").get("prediction_type")
    return said == "v_prediction" if said else "base" not in name.lower()
