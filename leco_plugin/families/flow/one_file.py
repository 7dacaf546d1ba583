"""A flow model's transformer in one file: in diffusers' layout, in that of its authors, or as ComfyUI saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from leco_plugin.checkpoint import Checkpoint
from leco_plugin.config.families import FlowFamily
from leco_plugin.errors import ModelError
from leco_plugin.families.flow.facts import COMFY, family_of_names
from leco_plugin.families.source import loading

_NARROW = ("scale_weight", "weight_scale", "weight_scale_2", "comfy_quant", "scaled_fp8", "absmax", "wscales")
"""How keys end that files in eight or four bits have besides the weights."""
_UNREAD = 1e-4
"""Part of a file that may be left out: its authors' files have a norm or two that nothing uses."""


def family_in_file(path: Path) -> FlowFamily | None:
    """The family whose transformer is in a file; None where it is none of these.

    Raises ModelError for weights in fewer bits.
    """
    keys = Checkpoint(path).keys
    if any(key.endswith(_NARROW) for key in keys):
        raise ModelError(
            f"{path} holds weights with scales beside them, which diffusers would leave out",
            fix="use the file in bf16, and memory.fp8_base to hold it in eight bits",
        )
    return family_of_names(keys)


def transformer_in_file(kind: Any, path: Path, folder: Path, bare: nn.Module, **options: Any) -> nn.Module:
    """The transformer of class ``kind`` with the weights of a file and the config that ``folder`` has.

    ``bare`` is the same without weights, and ``options`` are diffusers' own. Raises ModelError where the file has
    fewer weights, or more, which diffusers would leave out without a word.
    """
    file = Checkpoint(path)
    # diffusers knows this prefix for some of the families only
    tensors = dict(file.under(COMFY if file.has(COMFY) else ""))
    held, taken = (sum(map(torch.numel, each.values())) for each in (tensors, bare.state_dict()))
    with loading(path):
        try:
            # the folder has the config: nothing is looked up in the hub
            loaded: nn.Module = kind.from_single_file(tensors, config=str(folder), subfolder="transformer", **options)
        # names that the conversion looks for and that are not there; and what has no data cannot be moved
        except (KeyError, IndexError, NotImplementedError):
            loaded = bare
    theirs, fix = f"the transformer that {folder} describes", "name the folder of the same model"
    again = f"{fix}, get the file again, or pip install --upgrade diffusers, which then knows more layouts"
    if any(parameter.is_meta for parameter in loaded.parameters()):
        raise ModelError(f"{path} lacks weights of {theirs}", fix=again)
    if held - taken > _UNREAD * held:
        raise ModelError(f"{path} holds {held - taken} numbers more than {theirs}", fix=fix)
    return loaded
