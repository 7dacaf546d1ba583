"""Small models of flow families, trained by the real ai-toolkit; each schedule beside the one that it samples with.

Usage, in the host's folder: ``python ai_toolkit_stand_in.py ai_toolkit_families.py FOLDER FAMILY ...``, with HF_HOME in
FOLDER: there stand the parts that the host fetches by their names. Writes FOLDER/schedules.json.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from flow_models import _vae, write_flow_model

_MODELS = "extensions_built_in.diffusion_models"
_COMMIT = "0" * 40
_SIZES = ([64, 64], [256, 128])
"""(height, width) in pixels of the two prompt pairs."""


def hub(name: str, **parts: Path) -> None:
    """Put folders where a model of this name would be once it had been fetched."""
    place = Path(os.environ["HF_HOME"], "hub", f"models--{name.replace('/', '--')}")
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(_COMMIT)
    for part, folder in parts.items():
        shutil.copytree(folder, place / "snapshots" / _COMMIT / ("" if part == "all" else part), dirs_exist_ok=True)


def weights(module: torch.nn.Module, path: Path) -> str:
    """Write random weights, also where layers begin as zeros."""
    torch.manual_seed(0)
    save_file({name: 0.1 * torch.randn(tensor.shape) for name, tensor in module.state_dict().items()}, path)
    return str(path)


def as_diffusers(kind: str) -> Callable[[Path], dict[str, Any]]:
    """A family that the host loads from a folder of diffusers."""
    return lambda folder: {"name_or_path": str(write_flow_model(kind, folder))}


def chroma(folder: Path) -> dict[str, Any]:
    parts, host = write_flow_model("chroma", folder), import_module(f"{_MODELS}.chroma.chroma_model")
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
    source = import_module(f"{_MODELS}.chroma.src.model")
    small = {"hidden_size": 32, "num_heads": 2, "axes_dim": [4, 4, 8], "context_in_dim": 32, "depth": 1}
    more = {"depth_single_blocks": 1, "approximator_depth": 1, "approximator_hidden_size": 32}
    vars(source.chroma_params).update(small, **more)
    return {"name_or_path": weights(source.Chroma(source.chroma_params), folder / "chroma.safetensors")}


def krea2(folder: Path) -> dict[str, Any]:
    import transformers

    parts = write_flow_model("krea2", folder)
    inner = transformers.Qwen3VLModel.from_pretrained(parts / "text_encoder")
    whole = transformers.Qwen3VLForConditionalGeneration(inner.config)
    whole.save_pretrained(folder / "te")
    shutil.copytree(parts / "tokenizer", folder / "te", dirs_exist_ok=True)
    source = import_module(f"{_MODELS}.krea2.src.mmdit")
    width = inner.config.text_config.hidden_size
    small = {"features": 32, "tdim": 16, "txtdim": width, "heads": 2, "kvheads": 1, "layers": 2, "txtheads": 2}
    config = {**import_module(f"{_MODELS}.krea2.krea2").KREA2_MMDIT_CONFIG, **small, "txtkvheads": 2}
    path = weights(source.SingleStreamDiT(source.SingleMMDiTConfig(**config)), folder / "krea2.safetensors")
    more = {"mmdit_config": config, "text_encoder_path": str(folder / "te"), "vae_path": str(parts)}
    return {"name_or_path": path, "model_kwargs": more}


def flux2_klein(folder: Path) -> dict[str, Any]:
    parts = write_flow_model("flux2_klein", folder)
    hub("Qwen/Qwen3-4B", all=parts / "text_encoder")
    hub("Qwen/Qwen3-4B", all=parts / "tokenizer")
    model = import_module(f"{_MODELS}.flux2.src.model")
    host = import_module(f"{_MODELS}.flux2.flux2_model")
    text = json.loads((parts / "text_encoder" / "config.json").read_text())
    small = {"context_in_dim": 3 * text["hidden_size"], "hidden_size": 32, "num_heads": 2, "axes_dim": [4, 4, 4, 4]}
    params = model.Klein4BParams(**small, depth=1, depth_single_blocks=1)
    klein = import_module(f"{_MODELS}.flux2.flux2_klein_model").Flux2Klein4BModel
    klein.get_flux2_params = lambda self: params
    pictures = host.AutoEncoderParams(ch=32, ch_mult=[1, 1, 1, 1], num_res_blocks=1)
    host.AutoEncoderParams = lambda: pictures
    weights(host.AutoEncoder(pictures), folder / "ae.safetensors")
    weights(host.Flux2(params), folder / klein.flux2_te_filename)
    return {"name_or_path": str(folder)}


def hidream(folder: Path) -> dict[str, Any]:
    import transformers

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


FAMILIES: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "flux": as_diffusers("flux"),
    "sd3": as_diffusers("sd3"),
    "lumina2": as_diffusers("lumina2"),
    "qwen_image": as_diffusers("qwen_image"),
    "zimage": as_diffusers("z_image"),
    "chroma": chroma,
    "krea2": krea2,
    "flux2_klein_4b": flux2_klein,
    "hidream": hidream,
}


class Watched:
    """What one whole picture of the host is drawn with: its scheduler's sigmas, or the times its model is shown."""

    def __init__(self) -> None:
        self.sigmas: list[float] = []

    def of(self, sd: Any, folder: str, steps: int, pixels: tuple[int, int], embeds: Any) -> list[float]:
        """Draw one; the sigmas (N) of its steps."""
        if not hasattr(sd, "generate_single_image"):
            # the host's own pictures of these have lost the shift
            pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
            # SD3's goes on to a last stop beside the picture, which walks leave out
            drawn = steps + (str(sd.arch) == "sd3")
            size = {"height": pixels[0], "width": pixels[1], "num_inference_steps": drawn}
            pipeline(prompt="a shape", guidance_scale=1.0, output_type="latent", **size)
            return [float(sigma) for sigma in pipeline.scheduler.sigmas[:steps]]
        config = import_module("toolkit.config_modules").GenerateImageConfig(
            prompt="",
            height=pixels[0],
            width=pixels[1],
            num_inference_steps=steps,
            guidance_scale=1.0,
            seed=0,
            output_path=os.devnull,
        )
        shown: list[float] = []
        handle = sd.unet.register_forward_pre_hook(
            lambda _, given, named: shown.append(_time(given, named)), with_kwargs=True
        )
        sd.generate_single_image(
            sd.get_generation_pipeline(), config, embeds, embeds, torch.Generator().manual_seed(0), {}
        )
        handle.remove()
        found = self.sigmas or list(dict.fromkeys(shown))
        self.sigmas = []
        return found[:steps]


def _time(given: Any, named: Mapping[str, Any]) -> float:
    """Of a transformer that no scheduler of diffusers stands beside: from 1 to 0."""
    found = next((named[name] for name in ("t", "timestep", "timesteps") if name in named), torch.zeros(1))
    return float(found.flatten()[0])


def watch(found: list[dict[str, Any]], folders: Mapping[str, str]) -> None:
    """Beside every schedule of ours, note the host's."""
    from leco_plugin.hosts.ai_toolkit import model

    watched, own = Watched(), model.HostDenoiser._sigmas
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler, diffusers.UniPCMultistepScheduler):
        _watch_steps(scheduler, watched)
    if "hidream" in folders:
        _watch_steps(import_module(f"{_MODELS}.hidream.hidream_model").FlowUniPCMultistepScheduler, watched)

    def both(denoiser: Any, steps: int, shape: tuple[int, int, int]) -> Any:
        ours, pixels = own(denoiser, steps, shape), denoiser._pixels(shape)
        with torch.no_grad():
            hosts = watched.of(denoiser._sd, folders[denoiser.family], steps, pixels, denoiser._texts.each[0])
        doubts = [remark for remark in denoiser.remarks if "samples" in remark]
        found.append({"family": denoiser.family, "ours": ours.tolist(), "host": hosts, "doubts": doubts})
        return ours

    model.HostDenoiser._sigmas = both


def _watch_steps(scheduler: Any, watched: Watched) -> None:
    own = scheduler.step

    def step(self: Any, *given: Any, **named: Any) -> Any:
        watched.sigmas = [float(sigma) for sigma in self.sigmas]
        return own(self, *given, **named)

    scheduler.step = step


def job(name: str, folder: Path, model: dict[str, Any]) -> str:
    """A job file for two small pairs of different size."""
    pairs = [{"target": text, "positive": "red", "neutral": "a shape", "resolution": size}
             for text, size in zip(("a big red shape", "red"), _SIZES, strict=True)]  # fmt: skip
    process = {
        "type": "leco",
        "training_folder": str(folder / "out"),
        "training_seed": 5,
        "device": "cpu",
        "model": {"arch": name, **model},
        "network": {"type": "lora", "linear": 4, "linear_alpha": 4},
        "train": {"steps": 2, "lr": 1e-3, "dtype": "fp32", "noise_scheduler": "flowmatch", "disable_sampling": True},
        "save": {"dtype": "float32"},
        "leco": {"max_denoising_steps": 4, "walk": "pool", "pool_size": 1, "targets": pairs},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"job": "extension", "config": {"name": name, "process": [process]}}))
    return str(path)


def main(folder: Path, names: list[str]) -> None:
    models = {name: FAMILIES[name](folder / name) for name in names}
    jobs = [job(name, folder, model) for name, model in models.items()]
    found: list[dict[str, Any]] = []
    watch(found, {name: str(folder / name) for name in names})
    sys.argv = ["run.py", *(["--recover"] if len(jobs) > 1 else []), *jobs]
    try:
        runpy.run_path("run.py", run_name="__main__")
    finally:
        (folder / "schedules.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
