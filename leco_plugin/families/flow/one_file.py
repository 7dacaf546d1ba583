"""A flow model's transformer in one file: in diffusers' layout, in that of its authors, or as ComfyUI saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from leco_plugin.checkpoint import Checkpoint
from leco_plugin.config.families import FLOW_FAMILIES, FlowFamily
from leco_plugin.errors import ModelError
from leco_plugin.families.source import loading

_COMFY = "model.diffusion_model."
"""What stands before all names in ComfyUI's files, and in those that hold text encoders and VAE as well."""
_MARKS = (
    ("flux2", "single_stream_modulation.lin.weight", "single_stream_modulation.linear.weight"),
    ("chroma", "distilled_guidance_layer.in_proj.weight"),
    ("flux", "double_blocks.0.img_attn.norm.key_norm.scale", "single_transformer_blocks.0.proj_mlp.weight"),
    ("z_image", "layers.0.adaLN_modulation.0.weight"),
    ("sd3", "joint_blocks.0.x_block.adaLN_modulation.1.weight", "transformer_blocks.0.norm1_context.linear.weight"),
    ("lumina2", "cap_embedder.0.weight", "time_caption_embed.caption_embedder.0.weight"),
    ("auraflow", "double_layers.0.attn.w2q.weight", "joint_transformer_blocks.0.attn.to_q.weight"),
    ("krea2", "txtfusion.projector.weight", "text_fusion.projector.weight"),
    ("qwen_image", "transformer_blocks.0.img_mod.1.weight"),
)
"""A weight of each family by its authors' name, and by diffusers' where that is another; the first that is there."""
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
    names = {key.removeprefix(_COMFY) for key in keys}
    return next((FLOW_FAMILIES[family] for family, *marks in _MARKS if not names.isdisjoint(marks)), None)


def transformer_in_file(kind: Any, path: Path, folder: Path, bare: nn.Module, **options: Any) -> nn.Module:
    """The transformer of class ``kind`` with the weights of a file and the config that ``folder`` has.

    ``bare`` is the same without weights, and ``options`` are diffusers' own. Raises ModelError where the file has
    fewer weights, or more, which diffusers would leave out without a word.
    """
    file = Checkpoint(path)
    # diffusers knows this prefix for some of the families only
    tensors = dict(file.under(_COMFY if file.has(_COMFY) else ""))
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
