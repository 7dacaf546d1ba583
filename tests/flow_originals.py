"""Transformers of flow models by their authors' own names, as one file: diffusers' conversions the other way round."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_model
from torch import Tensor

Names = Mapping[str, str]
_FLUX: Names = {
    r"^time_text_embed\.timestep_embedder": "time_in", r"^time_text_embed\.text_embedder": "vector_in",
    r"^time_text_embed\.guidance_embedder": "guidance_in", r"(_in)\.linear_1": r"\1.in_layer",
    r"(_in)\.linear_2": r"\1.out_layer", r"^context_embedder": "txt_in", r"^x_embedder": "img_in",
    r"^proj_out": "final_layer.linear", r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
    r"^(distilled_\w+\.layers\.\d+)\.linear_1": r"\1.in_layer", r"^(distilled_\w+\.norms\.\d+)\.weight": r"\1.scale",
    r"^(distilled_\w+\.layers\.\d+)\.linear_2": r"\1.out_layer",
    r"^single_transformer_blocks": "single_blocks", r"^transformer_blocks": "double_blocks",
    r"^(single\S+)\.norm\.linear": r"\1.modulation.lin", r"^(single\S+)\.proj_out": r"\1.linear2",
    r"^(single\S+)\.attn\.norm_q\.weight": r"\1.norm.query_norm.scale",
    r"^(single\S+)\.attn\.norm_k\.weight": r"\1.norm.key_norm.scale",
    r"^(single\S+)\.(attn\.to_q|to_qkv)\b": r"\1.linear1",
    r"\.norm1\.linear": ".img_mod.lin", r"\.norm1_context\.linear": ".txt_mod.lin",
    r"\.attn\.norm_q\.weight": ".img_attn.norm.query_norm.scale",
    r"\.attn\.norm_k\.weight": ".img_attn.norm.key_norm.scale",
    r"\.attn\.norm_added_q\.weight": ".txt_attn.norm.query_norm.scale",
    r"\.attn\.norm_added_k\.weight": ".txt_attn.norm.key_norm.scale",
    r"\.attn\.to_q\b": ".img_attn.qkv", r"\.attn\.add_q_proj\b": ".txt_attn.qkv",
    r"\.attn\.to_out\.0": ".img_attn.proj", r"\.attn\.to_add_out": ".txt_attn.proj",
    r"\.ff\.net\.0\.proj": ".img_mlp.0", r"\.ff\.net\.2": ".img_mlp.2",
    r"\.ff_context\.net\.0\.proj": ".txt_mlp.0", r"\.ff_context\.net\.2": ".txt_mlp.2",
}  # fmt: skip
_FLUX2: Names = {
    r"^time_guidance_embed\.timestep_embedder": "time_in", r"^time_guidance_embed\.guidance_embedder": "guidance_in",
    r"(_modulation\w*)\.linear": r"\1.lin",
    r"\.ff\.linear_in": ".img_mlp.0", r"\.ff\.linear_out": ".img_mlp.2",
    r"\.ff_context\.linear_in": ".txt_mlp.0", r"\.ff_context\.linear_out": ".txt_mlp.2",
    r"^(single\S+)\.attn\.to_qkv_mlp_proj": r"\1.linear1", r"^(single\S+)\.attn\.to_out": r"\1.linear2", **_FLUX,
}  # fmt: skip
_SD3: Names = {
    r"^pos_embed\.pos_embed": "pos_embed", r"^pos_embed\.proj": "x_embedder.proj",
    r"^time_text_embed\.timestep_embedder": "t_embedder", r"^time_text_embed\.text_embedder": "y_embedder",
    r"(_embedder)\.linear_1": r"\1.mlp.0", r"(_embedder)\.linear_2": r"\1.mlp.2",
    r"^proj_out": "final_layer.linear", r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
    r"^transformer_blocks": "joint_blocks",
    r"\.norm1\.linear": ".x_block.adaLN_modulation.1", r"\.norm1_context\.linear": ".context_block.adaLN_modulation.1",
    r"\.(attn2?)\.to_q\b": r".x_block.\1.qkv", r"\.attn\.add_q_proj\b": ".context_block.attn.qkv",
    r"\.(attn2?)\.norm_([qk])": r".x_block.\1.ln_\2", r"\.attn\.norm_added_([qk])": r".context_block.attn.ln_\1",
    r"\.(attn2?)\.to_out\.0": r".x_block.\1.proj", r"\.attn\.to_add_out": ".context_block.attn.proj",
    r"\.ff\.net": ".x_block.mlp", r"\.ff_context\.net": ".context_block.mlp",
    r"\.mlp\.0\.proj\b": ".mlp.fc1", r"(block\.mlp)\.2\b": r"\1.fc2",
}  # fmt: skip
_Z_IMAGE: Names = {
    "^all_final_layer.2-1": "final_layer", "^all_x_embedder.2-1": "x_embedder", r"\.to_q\b": ".qkv",
    r"\.to_out\.0": ".out", r"\.norm_([qk])\.": r".\1_norm.",
}  # fmt: skip
_LUMINA2: Names = {
    r"^time_caption_embed\.caption_embedder": "cap_embedder",
    r"^time_caption_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
    r"^time_caption_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
    r"^norm_out\.linear_1": "final_layer.adaLN_modulation.1", r"^norm_out\.linear_2": "final_layer.linear",
    r"\.attn\.": ".attention.", r"\.to_q\b": ".qkv", r"\.to_out\.0": ".out", r"\.norm_([qk])\.": r".\1_norm.",
    r"\.norm1\.linear": ".adaLN_modulation.1", r"\.norm1(\.norm)?\.": ".attention_norm1.",
    r"\.norm2\.": ".attention_norm2.", r"feed_forward\.linear_": "feed_forward.w",
}  # fmt: skip
_AURAFLOW: Names = {
    r"^pos_embed\.pos_embed": "positional_encoding", r"^pos_embed\.proj": "init_x_linear",
    r"^time_step_proj\.linear_1": "t_embedder.mlp.0", r"^time_step_proj\.linear_2": "t_embedder.mlp.2",
    "^context_embedder": "cond_seq_linear", "^proj_out": "final_linear", r"^norm_out\.linear": "modF.1",
    r"^single\S+?(\d+)\.attn\.to_([qkv])": r"single_layers.\1.attn.w1\2",
    r"^single\S+?(\d+)\.attn\.to_out\.0": r"single_layers.\1.attn.w1o",
    r"^single\S+?(\d+)\.ff": r"single_layers.\1.mlp", r"^single\S+?(\d+)\.norm1\.linear": r"single_layers.\1.modCX.1",
    "^joint_transformer_blocks": "double_layers",
    r"\.norm1\.linear": ".modX.1", r"\.norm1_context\.linear": ".modC.1",
    r"\.attn\.to_([qkv])\b": r".attn.w2\1", r"\.attn\.to_out\.0": ".attn.w2o",
    r"\.attn\.add_([qkv])_proj": r".attn.w1\1", r"\.attn\.to_add_out": ".attn.w1o",
    r"\.ff\.": ".mlpX.", r"\.ff_context\.": ".mlpC.",
    r"(mlp\w*)\.linear_([12])": r"\1.c_fc\2", r"(mlp\w*)\.out_projection": r"\1.c_proj",
}  # fmt: skip
_KREA2: Names = {
    "^img_in": "first", r"^time_embed\.linear_1": "tmlp.0", r"^time_embed\.linear_2": "tmlp.2",
    "^time_mod_proj": "tproj.1", r"^txt_in\.norm\.weight": "txtmlp.0.scale", r"^txt_in\.linear_1": "txtmlp.1",
    r"^txt_in\.linear_2": "txtmlp.3", "^text_fusion": "txtfusion", "^transformer_blocks": "blocks",
    r"^final_layer\.linear": "last.linear", r"^final_layer\.norm\.weight": "last.norm.scale",
    r"^final_layer\.scale_shift_table": "last.modulation.lin", r"\.scale_shift_table": ".mod.lin",
    r"\.attn\.to_([qkv])\b": r".attn.w\1", r"\.attn\.to_out\.0": ".attn.wo", r"\.attn\.to_gate": ".attn.gate",
    r"\.attn\.norm_([qk])\.weight": r".attn.qknorm.\1norm.scale", r"\.ff\.": ".mlp.",
    r"\.norm1\.weight": ".prenorm.scale", r"\.norm2\.weight": ".postnorm.scale",
}  # fmt: skip
ORIGINALS: Mapping[str, Names] = {
    "z_image": _Z_IMAGE, "flux": _FLUX, "schnell": _FLUX, "flux2": _FLUX2, "flux2_klein": _FLUX2, "chroma": _FLUX,
    "sd3": _SD3, "lumina2": _LUMINA2, "auraflow": _AURAFLOW, "krea2": _KREA2, "qwen_image": {},
}  # fmt: skip
"""What parts of diffusers' names are called by the authors: patterns, one after the other."""
_APART = ("auraflow", "krea2", "qwen_image")
"""Families whose authors have queries, keys and values in layers of their own, too."""
_WIDTHS = {"flux": {3072: 32}, "schnell": {3072: 32}, "chroma": {3072: 32}, "lumina2": {2304: 32, 768: 16}}
"""The widths of the released models, which stand in diffusers' conversions, and those of ours."""
_SWAPPED = r"final_layer\.adaLN_modulation\.1|modF\.1"


def original(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's weights by its authors' names: queries, keys and values in one, shift before scale."""
    found = {}
    for key in tensors:
        whole = _whole(kind, key, tensors)
        if whole is None:
            continue
        name = key
        for pattern, instead in ORIGINALS[kind].items():
            name = re.sub(pattern, instead, name)
        last_context = kind == "sd3" and re.fullmatch(r"joint_blocks\.1\.context_block\.adaLN_\S+", name)
        if kind not in ("z_image", "lumina2") and (last_context or re.search(_SWAPPED, name)):
            whole = torch.cat(whole.chunk(2)[::-1])
        if kind == "krea2" and name.startswith("blocks."):
            whole = whole.flatten() if name.endswith("mod.lin") else whole
        found[name] = whole.contiguous()
    return found


def _whole(kind: str, key: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor that takes the place of one, with those that are in one with it; None where it is in another."""
    if kind in _APART:
        return tensors[key]
    match = re.search(r"(?<=\.to_)[qkv]\b|(?<=\.add_)[qkv](?=_proj)", key)
    if match is None:
        return None if ".proj_mlp." in key else tensors[key]
    if match[0] != "q":
        return None
    together = [tensors[key[: match.start()] + part + key[match.end() :]] for part in "qkv"]
    if key.startswith("single_"):
        together.append(tensors[key.replace("attn.to_q", "proj_mlp")])
    return torch.cat(together)


def fit_conversion(kind: str, patch: pytest.MonkeyPatch, name: str) -> None:
    """Have diffusers' conversion for the transformer class of this ``name`` expect the width of our small model.

    Skips where this diffusers has none.
    """
    if name not in single_file_model.SINGLE_FILE_LOADABLE_CLASSES:
        pytest.skip("this diffusers does not read it from one file")
    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[name]
    convert: Callable[..., Any] = entry["checkpoint_mapping_fn"]
    patch.setattr(convert, "__code__", _resized(convert.__code__, _WIDTHS.get(kind, {})))


def _resized(code: CodeType, widths: Mapping[int, int]) -> CodeType:
    def changed(constant: Any) -> Any:
        if isinstance(constant, CodeType):
            return _resized(constant, widths)
        return widths.get(constant, constant) if isinstance(constant, int) else constant

    return code.replace(co_consts=tuple(map(changed, code.co_consts)))
