"""Flow models of every family with a few channels and random weights, as diffusers folders."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from models import CPU
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from leco_plugin.config.schema import MemoryConfig, ModelConfig
from leco_plugin.families.flow.denoiser import FlowDenoiser
from leco_plugin.families.load import load_model

WIDE = 16
DYNAMIC = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}"
    "{% endfor %}!"
)
Part = nn.Module | Any


# --- tokenizers, one token a letter ------------------------------------------------------------------------------


def _write(folder: Path, settings: Mapping[str, Any], **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def _clip_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> int:
    words = ["!", *(c for c in _CHARACTERS if c != "!"), *(f"{c}</w>" for c in _CHARACTERS)]
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {word: number for number, word in enumerate([*words, start, end])}
    settings = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad, "model_max_length": 77}
    _write(
        folder,
        {**settings, "tokenizer_class": "CLIPTokenizer"},
        vocab__json=json.dumps(vocabulary),
        merges__txt="#version: 0.2\n",
    )
    return len(CLIPTokenizer.from_pretrained(folder))


def _qwen_tokenizer(folder: Path) -> int:
    special = ["<|endoftext|>", "\u0120", "<|im_start|>", "<|im_end|>", "\u010a"]
    vocabulary = {word: number for number, word in enumerate([*special, *_CHARACTERS])}
    settings = {"pad_token": special[0], "eos_token": special[3], "chat_template": _CHAT}
    _write(
        folder,
        {**settings, "tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": special[2:4]},
        vocab__json=json.dumps(vocabulary),
        merges__txt="#version: 0.2\n",
    )
    return len(transformers.Qwen2Tokenizer.from_pretrained(folder))


def _t5_tokenizer(folder: Path, length: int) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("\u2581", -2.0), *((c, -3.0) for c in _CHARACTERS)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _fast(folder, tokenizer, length, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _word_tokenizer(folder: Path, **more: Any) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "[INST]", "\u2581", *_CHARACTERS]
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>", **more}
    return _fast(folder, tokenizer, 1024, **names)


def _fast(folder: Path, tokenizer: Any, length: int, **names: Any) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    # no token_type_ids, which T5 does not take
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": length,
            "padding_side": "right",
            **inputs,
            **names,
        },
    )
    return int(tokenizer.get_vocab_size())


# --- parts -------------------------------------------------------------------------------------------------------


def _clip(size: int, projection: bool) -> nn.Module:
    config = CLIPTextConfig(
        hidden_size=WIDE, intermediate_size=32, projection_dim=WIDE, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, vocab_size=size, bos_token_id=size - 2, eos_token_id=size - 1,
        pad_token_id=size - 1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5(size: int, kind: str = "T5") -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=size, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    encoder: nn.Module = getattr(transformers, f"{kind}EncoderModel")(config)
    return encoder


def _qwen3(size: int, layers: int = 3) -> nn.Module:
    config = transformers.Qwen3Config(
        vocab_size=size, hidden_size=WIDE, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=2048,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(config)


def _vision_text(size: int, layers: int, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], **more}
    return {
        "vocab_size": size, "hidden_size": WIDE, "intermediate_size": 32, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048,
        "rope_scaling": rope, "rope_parameters": {**rope, "rope_theta": 10000.0},
    }  # fmt: skip


def _vae(channels: int = 4, **scale: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=channels, layers_per_block=1, norm_num_groups=2,
        sample_size=64, **{"scaling_factor": 0.4, "shift_factor": 0.1, **scale},
    )  # fmt: skip


def _qwen_vae() -> nn.Module:
    vae: nn.Module = diffusers.AutoencoderKLQwenImage(base_dim=4, z_dim=16, num_res_blocks=1)
    return vae


def _flux2_vae() -> nn.Module:
    vae: Any = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
        sample_size=64,
    )  # fmt: skip
    vae.bn.running_mean += 0.1 * torch.randn(vae.bn.running_mean.shape)
    vae.bn.running_var *= 1.5
    return vae  # type: ignore[no-any-return]


def _schedule(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, **options)


# --- families: what a folder holds -------------------------------------------------------------------------------


def _flux(folder: Path, guidance: bool = True) -> dict[str, Part]:
    clip, t5 = _clip_tokenizer(folder / "tokenizer"), _t5_tokenizer(folder / "tokenizer_2", 512)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=WIDE, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    schedule = _schedule(**DYNAMIC) if guidance else _schedule(shift=1.0)
    return {
        "text_encoder": _clip(clip, False), "text_encoder_2": _t5(t5), "transformer": transformer, "vae": _vae(),
        "scheduler": schedule,
    }  # fmt: skip


def _schnell(folder: Path) -> dict[str, Part]:
    return _flux(folder, guidance=False)


def _chroma(folder: Path) -> dict[str, Part]:
    size = _t5_tokenizer(folder / "tokenizer", 512)
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6), approximator_num_channels=8, approximator_hidden_dim=32,
        approximator_layers=2,
    )  # fmt: skip
    return {"text_encoder": _t5(size), "transformer": transformer, "vae": _vae(), "scheduler": _schedule(**DYNAMIC)}


def _sd3(folder: Path) -> dict[str, Part]:
    clip = _clip_tokenizer(folder / "tokenizer")
    _clip_tokenizer(folder / "tokenizer_2", "!")
    t5 = _t5_tokenizer(folder / "tokenizer_3", 256)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=2 * WIDE, out_channels=4,
        pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    return {
        "text_encoder": _clip(clip, True), "text_encoder_2": _clip(clip, True), "text_encoder_3": _t5(t5),
        "transformer": transformer, "vae": _vae(), "scheduler": _schedule(shift=3.0),
    }  # fmt: skip


def _qwen_image(folder: Path) -> dict[str, Part]:
    size = _qwen_tokenizer(folder / "tokenizer")
    config = transformers.Qwen2_5_VLConfig(
        text_config=_vision_text(size, 2),
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDE, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    long = {"max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    return {
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config), "transformer": transformer,
        "vae": _qwen_vae(), "scheduler": _schedule(**{**DYNAMIC, **long}),
    }  # fmt: skip


def _flux2_transformer(guidance: bool) -> nn.Module:
    transformer: nn.Module = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDE, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )  # fmt: skip
    return transformer


def _flux2_klein(folder: Path) -> dict[str, Part]:
    encoder = _qwen3(_qwen_tokenizer(folder / "tokenizer"), layers=28)
    return {
        "text_encoder": encoder, "transformer": _flux2_transformer(False), "vae": _flux2_vae(),
        "scheduler": _schedule(**DYNAMIC),
    }  # fmt: skip


def _flux2(folder: Path) -> dict[str, Part]:
    chat = "{% for m in messages %}[INST]{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    # the tokenizer without the processor around it, which is for pictures and needs torchvision
    size = _word_tokenizer(folder / "tokenizer", chat_template=chat)
    config = transformers.Mistral3Config(
        text_config={
            "model_type": "mistral", "vocab_size": size, "hidden_size": WIDE, "intermediate_size": 16,
            "num_hidden_layers": 31, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        },
    )  # fmt: skip
    return {
        "text_encoder": transformers.Mistral3ForConditionalGeneration(config), "transformer": _flux2_transformer(True),
        "vae": _flux2_vae(), "scheduler": _schedule(**DYNAMIC),
    }  # fmt: skip


def _z_image(folder: Path) -> dict[str, Part]:
    encoder = _qwen3(_qwen_tokenizer(folder / "tokenizer"))
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDE,
        axes_dims=[4, 6, 6], axes_lens=[1024, 32, 32],
    )  # fmt: skip
    return {"text_encoder": encoder, "transformer": transformer, "vae": _vae(), "scheduler": _schedule(shift=6.0)}


def _lumina2(folder: Path) -> dict[str, Part]:
    size = _word_tokenizer(folder / "tokenizer")
    config = transformers.Gemma2Config(
        vocab_size=size, hidden_size=WIDE, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8,
    )  # fmt: skip
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=16, in_channels=4, hidden_size=32, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(300, 32, 32), cap_feat_dim=WIDE,
    )  # fmt: skip
    return {
        "text_encoder": transformers.Gemma2Model(config), "transformer": transformer, "vae": _vae(),
        "scheduler": _schedule(shift=6.0),
    }  # fmt: skip


def _krea2(folder: Path) -> dict[str, Part]:
    size = _qwen_tokenizer(folder / "tokenizer")
    config = transformers.Qwen3VLConfig(
        text_config=_vision_text(size, 36, mrope_interleaved=True),
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
            "deepstack_visual_indexes": [0],
        },
    )  # fmt: skip
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=64, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=WIDE, num_text_layers=12,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=32, num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return {
        "text_encoder": transformers.Qwen3VLModel(config), "transformer": transformer, "vae": _qwen_vae(),
        "scheduler": _schedule(**{**DYNAMIC, "max_image_seq_len": 6400}),
    }  # fmt: skip


def _auraflow(folder: Path) -> dict[str, Part]:
    size = _t5_tokenizer(folder / "tokenizer", 256)
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=16, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, out_channels=4,
        pos_embed_max_size=256,
    )  # fmt: skip
    vae = _vae(shift_factor=None)
    return {
        "text_encoder": _t5(size, "UMT5"), "transformer": transformer, "vae": vae, "scheduler": _schedule(shift=1.73)
    }  # fmt: skip


_BUILDERS: Mapping[str, tuple[str, Callable[[Path], dict[str, Part]], dict[str, Any]]] = {
    "z_image": ("ZImagePipeline", _z_image, {}),
    "flux": ("FluxPipeline", _flux, {}),
    "schnell": ("FluxPipeline", _schnell, {}),
    "flux2": ("Flux2Pipeline", _flux2, {}),
    "flux2_klein": ("Flux2KleinPipeline", _flux2_klein, {"is_distilled": False}),
    "qwen_image": ("QwenImagePipeline", _qwen_image, {}),
    "krea2": ("Krea2Pipeline", _krea2, {"is_distilled": False}),
    "chroma": ("ChromaPipeline", _chroma, {}),
    "sd3": ("StableDiffusion3Pipeline", _sd3, {}),
    "lumina2": ("Lumina2Pipeline", _lumina2, {}),
    "auraflow": ("AuraFlowPipeline", _auraflow, {}),
}
KINDS = tuple(kind for kind, (pipeline, _, _) in _BUILDERS.items() if hasattr(diffusers, pipeline))
"""Every family that this version of diffusers has, and FLUX.1 without an embedding of its guidance."""


def write_flow_model(kind: str, folder: Path, **index: Any) -> Path:
    """Write the model of this kind to ``folder``; ``index`` is added to its model_index.json."""
    pipeline, build, more = _BUILDERS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = build(folder)
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                _speak(part, name)
            part.save_pretrained(folder / name)
    tree = {"_class_name": pipeline, **more, **index}
    tree |= {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    tree |= {path.name: ["transformers", _tokenizer_class(path)] for path in folder.glob("tokenizer*")}
    (folder / "model_index.json").write_text(json.dumps(tree))
    return folder


def _tokenizer_class(folder: Path) -> str:
    return str(json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"])


def _speak(part: nn.Module, name: str) -> None:
    """Random weights also where layers start at zero: else a transformer says nothing."""
    generator = torch.Generator().manual_seed(1)
    part.eval()
    for key, parameter in part.named_parameters():
        if name == "transformer" and parameter.dim() > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
        elif name == "transformer" and "norm" not in key:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def load_flow_model(
    folder: Path, *, checkpointing: bool = False, memory: MemoryConfig | None = None, **model: Any
) -> FlowDenoiser:
    """The model in a folder, on the CPU in float32; ``model`` is what the job says of it."""
    config = ModelConfig(name_or_path=str(folder), **model)
    loaded = load_model(config, dtype="fp32", device=CPU, checkpointing=checkpointing, memory=memory)
    assert isinstance(loaded, FlowDenoiser)
    return loaded


def in_fewer_bits(quantize: str, patch: pytest.MonkeyPatch) -> MemoryConfig:
    """What holds a model in fewer bits, on this CPU: our own eight, or those of a package, without which it skips.

    bitsandbytes computes on a CPU, where diffusers does not ask it to: what diffusers and we refuse there is let
    through, and its kernel for wide layers alone is left out.
    """
    if quantize == "fp8_base":
        return MemoryConfig(fp8_base=True)
    package = pytest.importorskip("bitsandbytes" if quantize == "nf4" else "torchao")
    if quantize == "nf4":
        from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer as Quantizer

        patch.setattr(Quantizer, "validate_environment", lambda *_, **__: None)
        patch.setattr(Quantizer, "update_device_map", lambda *_: {"": "cpu"})
        patch.setattr(package.nn.modules, "has_avx512bf16", lambda: False)
        patch.setattr("leco_plugin.families.flow.load.check_memory", lambda *_: None)
    return MemoryConfig(quantize=quantize)  # type: ignore[arg-type]
