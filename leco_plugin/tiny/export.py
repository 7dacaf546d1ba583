"""Write the tiny model as a diffusers folder that old and new versions of diffusers and transformers read."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel

from leco_plugin.tiny.architecture import load_tokenizer, new_scheduler, write_tokenizer_files

if TYPE_CHECKING:
    from diffusers import ZImagePipeline

Json = str | int | float | bool | list["Json"] | dict[str, "Json"] | None

# What SD 1.x's own files say. Later versions add many keys at their defaults, which older ones warn about.
KEPT: Final = {
    "unet/config.json": (
        "_class_name _diffusers_version act_fn attention_head_dim block_out_channels center_input_sample "
        "cross_attention_dim down_block_types downsample_padding flip_sin_to_cos freq_shift in_channels "
        "layers_per_block mid_block_scale_factor norm_eps norm_num_groups out_channels sample_size up_block_types"
    ),
    "vae/config.json": (
        "_class_name _diffusers_version act_fn block_out_channels down_block_types in_channels latent_channels "
        "layers_per_block norm_num_groups out_channels sample_size scaling_factor up_block_types"
    ),
    "scheduler/scheduler_config.json": (
        "_class_name _diffusers_version beta_end beta_schedule beta_start clip_sample num_train_timesteps "
        "prediction_type set_alpha_to_one steps_offset"
    ),
    "text_encoder/config.json": (
        "architectures attention_dropout bos_token_id eos_token_id hidden_act hidden_size initializer_factor "
        "initializer_range intermediate_size layer_norm_eps max_position_embeddings model_type num_attention_heads "
        "num_hidden_layers pad_token_id projection_dim vocab_size"
    ),
    "model_index.json": (
        "_class_name _diffusers_version feature_extractor requires_safety_checker safety_checker scheduler "
        "text_encoder tokenizer unet vae"
    ),
    "tokenizer/tokenizer_config.json": "bos_token eos_token model_max_length pad_token tokenizer_class unk_token",
}


def export(vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, folder: Path) -> None:
    """Write the whole pipeline to ``folder`` in float16; the three models become float16 too."""
    # this import is slow and talks of torchvision: a mistake in the arguments is told without it
    from diffusers import StableDiffusionPipeline

    shutil.rmtree(folder, ignore_errors=True)
    write_tokenizer_files(folder / "tokenizer")
    _halve(vae, unet, text_encoder)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=load_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers 5 writes tokenizer.json only, and may drop what older versions read
    write_tokenizer_files(folder / "tokenizer")
    _name_text_weights_as_ever(folder / "text_encoder" / "model.safetensors")
    for name, keys in KEPT.items():
        _keep(folder / name, keys.split())
    # else transformers 5 loads float16 as it lies there, while diffusers loads its models in float32
    _add(folder / "text_encoder" / "config.json", "torch_dtype", "float32")


def export_flow(pipeline: "ZImagePipeline", folder: Path) -> None:
    """Write the whole flow pipeline to ``folder`` in float16; its models become float16 too."""
    shutil.rmtree(folder, ignore_errors=True)
    _halve(pipeline.vae, pipeline.text_encoder, pipeline.transformer)
    pipeline.save_pretrained(folder, safe_serialization=True)


def _halve(*models: nn.Module) -> None:
    for model in models:
        for parameter in model.parameters():
            # contiguous: the VAE trains in channels_last
            parameter.data = parameter.data.to(torch.float16).contiguous()


def _name_text_weights_as_ever(file: Path) -> None:
    """Put back the ``text_model.`` that transformers 5 drops and that every version reads."""
    prefix = "text_model."
    weights = {prefix + name.removeprefix(prefix): weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def _keep(file: Path, keys: list[str]) -> None:
    content = _read(file)
    _write(file, {key: content[key] for key in keys if key in content})


def _add(file: Path, key: str, value: Json) -> None:
    _write(file, {**_read(file), key: value})


def _read(file: Path) -> dict[str, Json]:
    content: dict[str, Json] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _write(file: Path, content: dict[str, Json]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
