"""LoRAs on flow models: which layers, row by row, files that diffusers reads, and files of other trainers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import lora_pipeline
from flow_models import KINDS, load_flow_model
from models import randn, randomize, seeded
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leco_plugin.config.schema import LecoConfig, NetworkConfig, PromptPair
from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.step import StepSettings
from leco_plugin.errors import NetworkError
from leco_plugin.families.flow.denoiser import FlowDenoiser
from leco_plugin.network.create import create_network
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_read import LoraFile
from leco_plugin.network.peft_lora import PeftLora

Folder = Callable[[str], Path]
LORA = NetworkConfig(linear=4, linear_alpha=2.0)
TIMES = torch.tensor([900.0, 500.0, 200.0])


def lora_on(model: FlowDenoiser, config: NetworkConfig = LORA, std: float = 0.1) -> PeftLora:
    """A LoRA that does something."""
    network = create_network(config, model.module, seed=0)
    assert isinstance(network, PeftLora)
    randomize(network.parameters(), std=std)
    return network


def ask(model: FlowDenoiser, rows: slice = slice(0, 3)) -> Tensor:
    """What the model says for three prompts at three times, or for some of them."""
    if not hasattr(model, "asked"):
        model.asked = model.encode(["a red circle", "", "a big shape"])  # type: ignore[attr-defined]
    table = model.asked
    noise = randn(3, *model.latent_shape(64, 64))[rows]
    return model.predict(noise, TIMES[rows], table.rows([0, 1, 2][rows]), torch.zeros(len(noise), 6))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_row_has_its_own_strength(kind: str, flow_folder: Folder) -> None:
    """At 0 it is the base model bit for bit; rows of other strengths together are what each is alone."""
    model = load_flow_model(flow_folder(kind))
    base = ask(model)
    network = lora_on(model)
    with network.multiplier(0.0):
        assert torch.equal(ask(model), base)
    strengths = [0.0, 1.0, -2.0]
    with network.multiplier(strengths):
        rows = ask(model)
    for row, strength in enumerate(strengths):
        with network.multiplier(strength):
            alone = ask(model, slice(row, row + 1))
        torch.testing.assert_close(rows[row : row + 1], alone, rtol=0, atol=1e-5)
    assert (rows[1:] - base[1:]).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_learns(kind: str, flow_folder: Folder) -> None:
    """No layer is among them that the prediction does not depend on."""
    model = load_flow_model(flow_folder(kind))
    network = lora_on(model)
    with network.multiplier(1.0):
        ask(model).square().mean().backward()
    for name, parameter in model.module.named_parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.abs().max() > 0), name


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_diffusers_makes_the_same_of_a_file(kind: str, flow_folder: Folder, tmp_path: Path) -> None:
    """Through load_lora_weights at another strength; and it is read back with the alpha that it was trained with."""
    model = load_flow_model(flow_folder(kind))
    network = lora_on(model)
    network.save(tmp_path / "lora.safetensors", "float32", {"ss_leco_version": "1"})
    with network.multiplier(0.7):
        ours = ask(model)

    pipe = diffusers.DiffusionPipeline.from_pretrained(flow_folder(kind))
    pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors", adapter_name="lora")
    pipe.set_adapters("lora", 0.7)
    theirs = load_flow_model(flow_folder(kind))
    theirs._transformer = pipe.transformer
    torch.testing.assert_close(ask(theirs), ours, rtol=0, atol=1e-5)

    plain = load_flow_model(flow_folder(kind))
    loaded = LoadedLora(plain.module, LoraFile.read(tmp_path / "lora.safetensors"))
    with loaded.multiplier(0.7):
        torch.testing.assert_close(ask(plain), ours, rtol=0, atol=1e-5)
    assert loaded.left_out.keys == ()
    assert list(loaded.left_out.sentences()) == []


def test_a_run_goes_on_from_its_own_file(flow_folder: Folder, tmp_path: Path) -> None:
    """With the rank and alpha of the job, although the file has no alpha."""
    network = lora_on(load_flow_model(flow_folder("flux")))
    path = tmp_path / "lora.safetensors"
    network.save(path, "float32", {"ss_leco_version": "1"})
    again = create_network(
        LORA.model_copy(update={"network_weights": path}), load_flow_model(flow_folder("flux")).module, 1
    )
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def dotted(name: str) -> str:
    return name


def flat(name: str) -> str:
    return name.replace(".", "_")


FORMATS: dict[str, tuple[str, Callable[[str], str], tuple[str, str]]] = {
    "diffusers": ("transformer.", dotted, ("lora_A", "lora_B")),
    "ai-toolkit, ComfyUI": ("diffusion_model.", dotted, ("lora_A", "lora_B")),
    "musubi-tuner, sd-scripts": ("lora_unet_", flat, ("lora_down", "lora_up")),
    "OneTrainer": ("lora_transformer_", flat, ("lora_down", "lora_up")),
    "PEFT": ("base_model.model.", dotted, ("lora_A", "lora_B")),
}
"""What stands before a layer's name, how that is written, and what down and up are called."""


def write_lora(path: Path, form: str, layers: dict[str, tuple[Tensor, Tensor]], alpha: float | None) -> LoraFile:
    """Down and up weights of layers in the format of a trainer, with this alpha in those that have one."""
    prefix, spelled, names = FORMATS[form]
    tensors = {}
    for layer, factors in layers.items():
        stem = prefix + spelled(layer)
        tensors |= {f"{stem}.{name}.weight": factor for name, factor in zip(names, factors, strict=True)}
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return LoraFile.read(path)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_files_of_every_trainer_mean_what_ours_mean(kind: str, flow_folder: Folder, tmp_path: Path) -> None:
    """The same layers by diffusers' names behind the prefixes of all trainers, with alpha and without."""
    model, plain = load_flow_model(flow_folder(kind)), load_flow_model(flow_folder(kind))
    network = lora_on(model)
    with network.multiplier(0.7):
        ours = ask(model, slice(0, 1))
    layers = {
        name: (weights["lora_down.weight"], weights["lora_up.weight"]) for name, weights in network.weights().items()
    }
    folded = {name: (down, up * 0.5) for name, (down, up) in layers.items()}
    for form in FORMATS:
        alpha = 2.0 if "lora_down" in FORMATS[form][2] else None
        written = write_lora(tmp_path / "lora.safetensors", form, layers if alpha else folded, alpha)
        loaded = LoadedLora(plain.module, written)
        assert not list(loaded.left_out.sentences()), form
        with loaded.multiplier(0.7):
            torch.testing.assert_close(ask(plain, slice(0, 1)), ours, rtol=0, atol=1e-5, msg=form)
        loaded.detach()


_QKV = tuple(f"transformer_blocks.0.attn.to_{part}" for part in "qkv")
_BFL = {
    "double_blocks.0.img_attn.qkv": _QKV,
    "double_blocks.0.img_attn.proj": ("transformer_blocks.0.attn.to_out.0",),
    "double_blocks.0.img_mlp.0": ("transformer_blocks.0.ff.net.0.proj",),
    "single_blocks.0.linear2": ("single_transformer_blocks.0.proj_out",),
}
_FLUX2 = {
    "double_blocks.0.img_attn.qkv": _QKV,
    "double_blocks.0.txt_mlp.2": ("transformer_blocks.0.ff_context.linear_out",),
    "single_blocks.0.linear1": ("single_transformer_blocks.0.attn.to_qkv_mlp_proj",),
}
ORIGINALS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "flux": ("musubi-tuner, sd-scripts", _BFL),
    "chroma": ("musubi-tuner, sd-scripts", _BFL),
    "flux2": ("ai-toolkit, ComfyUI", _FLUX2),
    "flux2_klein": ("musubi-tuner, sd-scripts", _FLUX2),
    "krea2": (
        "ai-toolkit, ComfyUI",
        {
            "blocks.0.attn.wq": ("transformer_blocks.0.attn.to_q",),
            "blocks.1.attn.wo": ("transformer_blocks.1.attn.to_out.0",),
            "blocks.0.mlp.gate": ("transformer_blocks.0.ff.gate",),
        },
    ),
}
"""The names of the authors' own code, and what the parts of each are called in diffusers."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ORIGINALS])
@torch.no_grad()
def test_original_names_are_converted(kind: str, flow_folder: Folder, tmp_path: Path) -> None:
    """Queries, keys and values in one layer, too: as if the product were added to the weights themselves."""
    form, names = ORIGINALS[kind]
    if kind == "flux2_klein" and not hasattr(lora_pipeline, "_convert_kohya_flux2_lora_to_diffusers"):
        pytest.skip("this diffusers does not know such files")
    plain, changed = load_flow_model(flow_folder(kind)), load_flow_model(flow_folder(kind))
    layers, alpha = {}, 2.0 if "lora_down" in FORMATS[form][2] else None
    for number, (original, parts) in enumerate(names.items()):
        weights = [changed.module.get_parameter(f"{part}.weight") for part in parts]
        down = 0.3 * randn(4, weights[0].shape[1], seed=number)
        up = 0.3 * randn(sum(len(weight) for weight in weights), 4, seed=10 + number)
        layers[original] = (down, up)
        change = (up @ down) * ((alpha or 4.0) / 4)
        for weight, own in zip(weights, change.split([len(weight) for weight in weights]), strict=True):
            weight += own
    loaded = LoadedLora(plain.module, write_lora(tmp_path / "lora.safetensors", form, layers, alpha))
    assert loaded.layers == sum(map(len, names.values()))
    with loaded.multiplier(1.0):
        torch.testing.assert_close(ask(plain, slice(0, 1)), ask(changed, slice(0, 1)), rtol=0, atol=1e-5)


def test_a_file_for_another_model_is_refused(flow_folder: Folder, tmp_path: Path) -> None:
    """One sentence, whatever diffusers makes of it."""
    save_file({"lora_unet_down_blocks_0_x.lora_down.weight": torch.ones(4, 8)}, tmp_path / "sd.safetensors")
    for kind in ("z_image", "flux"):
        with pytest.raises(NetworkError):
            LoadedLora(load_flow_model(flow_folder(kind)).module, LoraFile.read(tmp_path / "sd.safetensors"))


def test_the_file_says_how_it_was_trained_and_no_alpha(flow_folder: Folder, tmp_path: Path) -> None:
    """Alpha / rank is in the ups: loaders take these files as if alpha were the rank."""
    network = lora_on(load_flow_model(flow_folder("z_image")))
    network.save(tmp_path / "lora.safetensors", "float16", {"some": "thing"})
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        assert {key.rpartition(".lora_")[2] for key in file.keys()} == {"A.weight", "B.weight"}  # noqa: SIM118
        assert file.metadata()["ss_network_dim"] == "4"
        assert file.metadata()["some"] == "thing"
    name, weights = next(iter(network.weights().items()))
    up = load_file(tmp_path / "lora.safetensors")[f"transformer.{name}.lora_B.weight"]
    torch.testing.assert_close(up, (weights["lora_up.weight"] * 2.0 / 4).half())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"type": "lokr"}, "no loader reads lokr"),
        ({"conv": 4}, "no convolutions"),
        ({"layers": "xattn"}, "about UNets"),
    ],
)
def test_what_means_nothing_to_a_transformer_is_refused(config: dict[str, Any], said: str, flow_folder: Folder) -> None:
    """Before anything is trained."""
    module = load_flow_model(flow_folder("z_image")).module
    with pytest.raises(NetworkError, match=said):
        create_network(NetworkConfig(**config), module, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_asked_nothing_is_learnt(kind: str, flow_folder: Folder) -> None:
    """Goal 0: three plain steps of the whole method leave the LoRA as it was, but for rounding; asked, it moves."""
    moved = {}
    for strength in (0.0, 1.0):
        model = load_flow_model(flow_folder(kind))
        network = create_network(LORA, model.module, seed=0)
        pair = PromptPair(
            target="a circle", positive="a red circle", neutral="a circle", guidance_scale=strength,
            resolution=(64, 64),
        )  # fmt: skip
        leco = LecoConfig(max_denoising_steps=4, pool_size=2)
        training = assemble(
            [pair], leco, StepSettings(), denoiser=model, network=network, sampler="ddim", generator=seeded(5)
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
        for _ in range(3):
            training.step.run(training.walks, torch.autograd.backward)
            optimizer.step()
            optimizer.zero_grad()
        moved[strength] = max(float(up.detach().abs().max()) for up in network.parameters()[1::2])
    assert moved[0.0] < 1e-7
    assert moved[1.0] > 10 * moved[0.0]
