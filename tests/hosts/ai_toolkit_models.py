"""Small models of the families that the real ai-toolkit loads, with random weights; to be imported inside of it.

HF_HOME has to be a folder of the test's own: there stand the parts that the host fetches by their names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from flow_models import (
    _flux2_vae,
    _qwen3,
    _qwen_tokenizer,
    _qwen_vae,
    _schedule,
    _t5_tokenizer,
    _vae,
    _word_tokenizer,
    write_flow_model,
)
from safetensors.torch import save_file

MODELS = "extensions_built_in.diffusion_models"
_COMMIT = "0" * 40


def hub(name: str, **parts: Path) -> None:
    """Put folders where a model of this name would be once it had been fetched."""
    place = Path(os.environ["HF_HOME"], "hub", f"models--{name.replace('/', '--')}")
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(_COMMIT)
    for part, folder in parts.items():
        shutil.copytree(folder, place / "snapshots" / _COMMIT / ("" if part == "all" else part), dirs_exist_ok=True)


def weights(module: torch.nn.Module, path: Path) -> str:
    """Write random weights, with which the text makes a difference: layers that begin as zeros would hide it."""
    torch.manual_seed(0)
    save_file({name: _random(name, tensor) for name, tensor in module.state_dict().items()}, path)
    return str(path)


def _random(name: str, tensor: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(tensor.shape)
    if tensor.dim() > 1:
        return noise / max(1, tensor.shape[1:].numel()) ** 0.5
    return 1 + 0.1 * noise if name.endswith(("norm.weight", "scale", "var")) else 0.5 * noise


def as_diffusers(kind: str) -> Callable[[Path], dict[str, Any]]:
    """A family that the host loads from a folder of diffusers."""
    return lambda folder: {"name_or_path": str(write_flow_model(kind, folder))}


def chroma(folder: Path) -> dict[str, Any]:
    parts, host = write_flow_model("chroma", folder), import_module(f"{MODELS}.chroma.chroma_model")
    # the host's pipeline draws noise of 16 channels, whatever the model has
    _vae(16).save_pretrained(parts / "vae")
    hub(
        "ostris/Flex.1-alpha", tokenizer_2=parts / "tokenizer", text_encoder_2=parts / "text_encoder", vae=parts / "vae"
    )

    class OnCpu(host.FakeCLIP):  # type: ignore[misc]
        """The host has it on a GPU, wherever the rest is."""

        def __init__(self) -> None:
            super().__init__()
            self.device = torch.device("cpu")

    host.FakeCLIP = OnCpu
    source = import_module(f"{MODELS}.chroma.src.model")
    small = {"hidden_size": 32, "num_heads": 2, "axes_dim": [4, 4, 8], "context_in_dim": 32, "depth": 1}
    more = {"depth_single_blocks": 1, "approximator_depth": 1, "approximator_hidden_size": 32}
    vars(source.chroma_params).update(small, **more)
    return {"name_or_path": weights(source.Chroma(source.chroma_params), folder / "chroma.safetensors")}


def krea2(folder: Path) -> dict[str, Any]:
    parts = write_flow_model("krea2", folder)
    inner = transformers.Qwen3VLModel.from_pretrained(parts / "text_encoder")
    whole = transformers.Qwen3VLForConditionalGeneration(inner.config)
    whole.save_pretrained(folder / "te")
    shutil.copytree(parts / "tokenizer", folder / "te", dirs_exist_ok=True)
    source = import_module(f"{MODELS}.krea2.src.mmdit")
    width = inner.config.text_config.hidden_size
    small = {"features": 32, "tdim": 16, "txtdim": width, "heads": 2, "kvheads": 1, "layers": 2, "txtheads": 2}
    config = {**import_module(f"{MODELS}.krea2.krea2").KREA2_MMDIT_CONFIG, **small, "txtkvheads": 2}
    path = weights(source.SingleStreamDiT(source.SingleMMDiTConfig(**config)), folder / "krea2.safetensors")
    more = {"mmdit_config": config, "text_encoder_path": str(folder / "te"), "vae_path": str(parts)}
    return {"name_or_path": path, "model_kwargs": more}


def flux2(folder: Path, arch: str = "flux2") -> dict[str, Any]:
    """FLUX.2 dev, whose text encoder is Mistral, and both sizes of klein, which have Qwen3."""
    kind, of, repository, params = {
        "flux2": ("flux2", "Model", "", "Flux2Params"),
        "flux2_klein_4b": ("flux2_klein", "Klein4BModel", "Qwen/Qwen3-4B", "Klein4BParams"),
        "flux2_klein_9b": ("flux2_klein", "Klein9BModel", "Qwen/Qwen3-8B", "Klein9BParams"),
    }[arch]
    parts = write_flow_model(kind, folder)
    model, host = (import_module(f"{MODELS}.flux2.{name}") for name in ("src.model", "flux2_model"))
    # the processor around it is for pictures, and needs torchvision
    host.AutoProcessor = transformers.AutoTokenizer
    for part in ("text_encoder", "tokenizer"):
        hub(repository or host.MISTRAL_PATH, all=parts / part)
    text = json.loads((parts / "text_encoder" / "config.json").read_text())
    width = text.get("text_config", text)["hidden_size"]
    small = {"context_in_dim": 3 * width, "hidden_size": 32, "num_heads": 2, "axes_dim": [4, 4, 4, 4]}
    made = getattr(model, params)(**small, depth=1, depth_single_blocks=1)
    family = getattr(import_module(f"{MODELS}.flux2"), f"Flux2{of}")
    family.get_flux2_params = lambda self: made
    host.AutoEncoderParams = partial(
        import_module(f"{MODELS}.flux2.src.autoencoder").AutoEncoderParams, ch=32, ch_mult=[1] * 4, num_res_blocks=1
    )
    weights(host.AutoEncoder(host.AutoEncoderParams()), folder / "ae.safetensors")
    weights(host.Flux2(made), folder / family.flux2_te_filename)
    return {"name_or_path": str(folder)}


def hidream(folder: Path) -> dict[str, Any]:
    parts = write_flow_model("sd3", folder)
    torch.manual_seed(0)
    for part in ("text_encoder", "text_encoder_2"):
        config = transformers.CLIPTextConfig.from_pretrained(parts / part, max_position_embeddings=128)
        transformers.CLIPTextModelWithProjection(config).save_pretrained(parts / part)
    size = len(transformers.AutoTokenizer.from_pretrained(parts / "tokenizer_3"))
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=size, num_key_value_heads=2, attn_implementation="eager", **small)
    )
    llama.save_pretrained(folder / "llama")
    shutil.copytree(parts / "tokenizer_3", folder / "llama", dirs_exist_ok=True)
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[32, 32], text_emb_dim=32, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(8, 4, 4), max_resolution=(128, 128), llama_layers=[0, 1],
    )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    more = {"extras_name_or_path": str(folder), "model_kwargs": {"llama_model_path": str(folder / "llama")}}
    return {"name_or_path": str(folder), **more}


def ernie_image(folder: Path) -> dict[str, Any]:
    size = _word_tokenizer(folder / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {"model_type": "mistral", "vocab_size": size, "num_key_value_heads": 2, "head_dim": 8, **small}
    seen = {"model_type": "pixtral", "image_size": 32, "patch_size": 8, **small}
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=64, in_channels=16, out_channels=16,
        patch_size=1, text_in_dim=16, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    encoder = transformers.Mistral3Model(transformers.Mistral3Config(text_config=text, vision_config=seen))
    # its states are not normed, and random ones say too little
    encoder.get_input_embeddings().weight.data *= 25
    _save(folder, text_encoder=encoder, transformer=transformer, vae=_flux2_vae())
    return {"name_or_path": str(folder)}


def anima(folder: Path) -> dict[str, Any]:
    text = _qwen3(_qwen_tokenizer(folder / "tokenizer")).model
    conditioner = diffusers.AnimaTextConditioner(
        source_dim=16, target_dim=32, model_dim=32, num_layers=1, num_attention_heads=2,
        target_vocab_size=_t5_tokenizer(folder / "t5_tokenizer", 512),
    )  # fmt: skip
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=24, num_layers=2,
        text_embed_dim=32, adaln_lora_dim=8, max_size=(8, 32, 32), rope_scale=(1.0, 4.0, 4.0),
        concat_padding_mask=True, extra_pos_embed_type=None,
    )  # fmt: skip
    parts = {"text_encoder": text, "text_conditioner": conditioner, "transformer": transformer, "vae": _qwen_vae()}
    _save(folder, **parts, scheduler=_schedule())
    parts |= {name: transformers.AutoTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "t5_tokenizer")}
    parts["scheduler"] = _schedule()
    index: dict[str, Any] = {"_class_name": "AnimaModularPipeline", "_blocks_class_name": "AnimaAutoBlocks"}
    for name, part in parts.items():
        kind = [type(part).__module__.split(".")[0], type(part).__name__]
        place = {"pretrained_model_name_or_path": str(folder), "subfolder": name, "variant": None, "revision": None}
        index[name] = [*kind, {**place, "type_hint": kind}]
    (folder / "modular_model_index.json").write_text(json.dumps(index))
    return {"name_or_path": str(folder)}


def nucleus_image(folder: Path) -> dict[str, Any]:
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    parts = write_flow_model("krea2", folder / "parts")
    tokenizer = transformers.AutoTokenizer.from_pretrained(parts / "tokenizer")
    tokenizer.add_tokens(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"], special_tokens=True)
    pictures, films = transformers.Qwen2VLImageProcessor(), transformers.Qwen3VLVideoProcessor()
    Qwen3VLProcessor(pictures, tokenizer, films, chat_template=tokenizer.chat_template).save_pretrained(
        folder / "processor"
    )
    text = _qwen3_vl(parts)
    text.resize_token_embeddings(len(tokenizer))
    transformer = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=64, out_channels=16, num_layers=5, attention_head_dim=16, num_attention_heads=2,
        num_key_value_heads=1, joint_attention_dim=16, axes_dims_rope=(4, 6, 6), num_experts=2,
        moe_intermediate_dim=32, capacity_factors=1.0,
    )  # fmt: skip
    _save(folder, text_encoder=text, transformer=transformer, vae=_qwen_vae())
    return {"name_or_path": str(folder)}


def ideogram4(folder: Path) -> dict[str, Any]:
    parts, host = write_flow_model("krea2", folder / "parts"), import_module(f"{MODELS}.ideogram4.ideogram4")
    shutil.copytree(parts / "tokenizer", parts / "text_encoder", dirs_exist_ok=True)
    host.Ideogram4Config = partial(
        host.Ideogram4Config, emb_dim=32, num_layers=2, num_heads=2, intermediate_size=32, adanln_dim=16,
        llm_features_dim=13 * 16, mrope_section=(2, 2, 2),
    )  # fmt: skip
    host.AutoEncoderParams = partial(host.AutoEncoderParams, ch=32, ch_mult=[1] * 4, num_res_blocks=1)
    # the host's own names of its layers, which it would have from those of diffusers
    host.convert_diffusers_state_dict = dict
    transformer = host.Ideogram4Transformer2DModel(host.Ideogram4Config())
    for part, module in (("transformer", transformer), ("vae", host.AutoEncoder(host.AutoEncoderParams()))):
        (folder / part).mkdir()
        weights(module, folder / part / "diffusion_pytorch_model.safetensors")
    return {"name_or_path": str(folder), "model_kwargs": {"text_encoder_path": str(parts / "text_encoder")}}


def boogu_image(folder: Path) -> dict[str, Any]:
    parts, host = write_flow_model("krea2", folder / "parts"), import_module(f"{MODELS}.boogu_image.boogu_image")
    transformer = host.BooguImageTransformer2DModel(
        hidden_size=32, num_layers=2, num_double_stream_layers=1, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(1024, 1024, 1024),
        instruction_feature_configs={"instruction_feat_dim": 16, "reduce_type": "mean"},
    )  # fmt: skip
    _save(folder, transformer=transformer, vae=_vae(16))
    shutil.copytree(parts / "text_encoder", folder / "mllm")
    shutil.copytree(parts / "tokenizer", folder / "processor")
    return {"name_or_path": str(folder)}


def mageflow(folder: Path) -> dict[str, Any]:
    parts = write_flow_model("krea2", folder / "parts")
    _save(folder, text_encoder=_qwen3_vl(parts))
    shutil.copytree(parts / "tokenizer", folder / "text_encoder", dirs_exist_ok=True)
    source, vae = (import_module(f"{MODELS}.mageflow.src.{name}") for name in ("transformer", "vae"))
    small = {"in_channels": 128, "out_channels": 128, "context_in_dim": 16, "hidden_size": 32, "num_heads": 2}
    config = {**small, "depth": 2, "axes_dim": [4, 6, 6], "checkpoint": False}
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights(source.MageFlow(source.MageFlowParams(**config)), path)
    # their sizes are written in their signatures
    vae._DConvEncoder.__init__.__defaults__ = (128, 32, 1, 16, 1.0, 32, 1, 2)
    vae._DConvDenoiser.__init__.__defaults__ = (16, 3, 32, 4, 1.0, 2, 1, 128)
    both = torch.nn.ModuleDict({"pipeline": vae._DConvDenoiser()})
    both["student"] = torch.nn.ModuleDict({"dconv_encoder": vae._DConvEncoder()})
    (folder / "vae").mkdir()
    weights(both, folder / "vae" / "diffusion_pytorch_model.safetensors")
    return {"name_or_path": str(folder)}


def _save(folder: Path, **parts: Any) -> None:
    """Each part into a folder of its name, and the transformer with random weights everywhere."""
    torch.manual_seed(0)
    if transformer := parts.get("transformer"):
        transformer.load_state_dict({name: _random(name, value) for name, value in transformer.state_dict().items()})
    for name, part in parts.items():
        part.save_pretrained(folder / name)


def _qwen3_vl(parts: Path) -> Any:
    config = transformers.Qwen3VLConfig.from_pretrained(parts / "text_encoder")
    return transformers.Qwen3VLForConditionalGeneration(config)


FAMILIES: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "flux": as_diffusers("flux"),
    "sd3": as_diffusers("sd3"),
    "lumina2": as_diffusers("lumina2"),
    "qwen_image": as_diffusers("qwen_image"),
    "zimage": as_diffusers("z_image"),
    "chroma": chroma,
    "krea2": krea2,
    "flux2": flux2,
    "flux2_klein_4b": partial(flux2, arch="flux2_klein_4b"),
    "flux2_klein_9b": partial(flux2, arch="flux2_klein_9b"),
    "hidream": hidream,
    "ernie_image": ernie_image,
    "anima": anima,
    "nucleus_image": nucleus_image,
    "ideogram4": ideogram4,
    "boogu_image": boogu_image,
    "mageflow": mageflow,
}
