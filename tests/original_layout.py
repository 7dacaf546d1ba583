"""Small models as single files in the layout of the models' authors, made from diffusers' pipelines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_models import text_config, unet_config, vae_config
from torch import Tensor

from leco_plugin.network.blocks import original_names

CLIP_PREFIX = {
    "sd1": "cond_stage_model.transformer.text_model.",
    "sdxl": "conditioner.embedders.0.transformer.text_model.",
}
OPEN_CLIP_PREFIX = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
_OPEN_CLIP = [
    (r"^encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"layer_norm([12])", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^final_layer_norm", "ln_final"),
]
_VAE = [
    (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
    (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
    (r"^encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
]


def original_tensors(pipeline: Any, family: str) -> dict[str, Tensor]:
    """All weights of a pipeline by their original names."""
    originals = original_names([name for name, _ in pipeline.unet.named_modules()])
    tensors = {}
    for key, tensor in pipeline.unet.state_dict().items():
        name, kind = key.rsplit(".", 1)
        tensors[f"model.diffusion_model.{originals[name]}.{kind}"] = tensor
    vae = pipeline.vae.state_dict()
    tensors |= {f"first_stage_model.{_vae_name(key)}": _vae_value(key, tensor) for key, tensor in vae.items()}
    if family in CLIP_PREFIX:
        tensors |= {f"{CLIP_PREFIX[family]}{key}": tensor for key, tensor in _plain(pipeline.text_encoder).items()}
    if family in OPEN_CLIP_PREFIX:
        encoder = pipeline.text_encoder_2 if family == "sdxl" else pipeline.text_encoder
        tensors |= {f"{OPEN_CLIP_PREFIX[family]}{key}": tensor for key, tensor in _open_clip(_plain(encoder)).items()}
    return {key: tensor.clone().contiguous() for key, tensor in tensors.items()}


def small_configs(pipeline: Any, family: str) -> dict[str, Any]:
    """What the package's own data would say of a model this small."""
    tokenizers = [pipeline.tokenizer, *([pipeline.tokenizer_2] if family == "sdxl" else [])]
    texts = [text_config(number, tokenizer, family) for number, tokenizer in enumerate(tokenizers)]
    return {
        "unet": unet_config(family),
        "vae": vae_config(),
        "text_encoders": texts,
        "pad_tokens": [tokenizer.pad_token for tokenizer in tokenizers],
        "scheduler": {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")},
    }


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A .safetensors or .ckpt file of these tensors."""
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata)
    else:
        torch.save({"state_dict": tensors, "epoch": 1, "global_step": 2}, path)
    return path


def _plain(encoder: Any) -> dict[str, Tensor]:
    return {key.removeprefix("text_model."): tensor for key, tensor in encoder.state_dict().items()}


def _open_clip(plain: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's own encoder: query, key and value in one matrix, one layer more than is read, a scale for pictures."""
    tensors = {"logit_scale": torch.tensor(4.6)}
    for key, tensor in plain.items():
        if key == "text_projection.weight":
            tensors["text_projection"] = tensor.T
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", key):
            rows = [plain[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            tensors[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(rows)
        elif not re.search(r"self_attn\.[kv]_proj", key):
            tensors[_renamed(key, _OPEN_CLIP)] = tensor
    if "text_projection" not in tensors:
        last = {key: tensor for key, tensor in tensors.items() if ".resblocks.2." in key}
        tensors |= {key.replace(".2.", ".3."): 0 * tensor for key, tensor in last.items()}
        tensors["text_projection"] = torch.zeros(2 * [tensors["positional_embedding"].shape[1]])
    return tensors


def _vae_name(key: str) -> str:
    key = re.sub(r"^decoder\.up_blocks\.(\d)\.resnets\.", lambda m: f"decoder.up.{3 - int(m[1])}.block.", key)
    key = re.sub(r"^decoder\.up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"decoder.up.{3 - int(m[1])}.upsample.", key)
    return _renamed(key, _VAE)


def _vae_value(key: str, tensor: Tensor) -> Tensor:
    # attention was made of convolutions there
    return tensor[:, :, None, None] if ".attentions." in key and tensor.ndim == 2 else tensor


def _renamed(key: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
