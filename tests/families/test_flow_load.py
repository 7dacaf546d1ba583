"""Where flow models are loaded from, what they are told by, and their walks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_model
from flow_models import KINDS, load_flow_model, write_flow_model
from flow_originals import fit_conversion, original
from models import CPU, randn, seeded
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.errors import ModelError
from leco_plugin.families.flow import source
from leco_plugin.families.flow.denoiser import FlowDenoiser
from leco_plugin.families.load import load_model

Folder = Callable[[str], Path]
KINDS_OF = {"schnell": "flux", "flux2_klein": "flux2"}
"""Families whose transformer is that of another."""
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@torch.no_grad()
def ask(model: FlowDenoiser) -> Tensor:
    table = model.encode(["a red circle"])
    noise = randn(1, *model.latent_shape(64, 64))
    return model.predict(noise, torch.tensor([700.0]), table.rows([0]), torch.zeros(1, 6))


def without_weights(folder: Path, copy: Path) -> tuple[Path, dict[str, Tensor]]:
    """A copy of a model without its transformer's weights, which must not be looked for; and those weights."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    tensors = load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    return copy, tensors


@pytest.mark.parametrize("kind", KINDS)
def test_a_transformer_in_one_file_is_the_models(
    kind: str, flow_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: in diffusers' layout and its authors', as ComfyUI saves them, in eight bits without scales."""
    extras, tensors = without_weights(flow_folder(kind), tmp_path / "extras")
    fit_conversion(kind, monkeypatch, json.loads((extras / "model_index.json").read_text())["transformer"][1])
    held = {"diffusers": tensors, "original": original(kind, tensors)}
    held |= {f"comfy {name}": {f"model.diffusion_model.{k}": t for k, t in own.items()} for name, own in held.items()}
    held["comfy original"] |= {"vae.decoder.x": torch.ones(9000)}
    eight = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in tensors.items()}
    held["eight"] = original(kind, eight)
    if not hasattr(single_file_model, "_should_convert_state_dict_to_diffusers"):
        # older versions know the authors' names only
        held = {name: own for name, own in held.items() if "diffusers" not in name}
    assert (held["original"].keys() != tensors.keys()) is (kind != "qwen_image")
    for name, own in held.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in own.items()}, path)
        model = load_flow_model(path, extras=str(extras))
        found = model.module.state_dict()
        assert found.keys() == tensors.keys()
        for key, tensor in (eight if name == "eight" else tensors).items():
            assert torch.equal(found[key], tensor.float()), (name, key)
        if name != "eight":
            assert f"transformer of {FLOW_FAMILIES[KINDS_OF.get(kind, kind)].title}" in refused(path)


def test_a_diffusers_that_reads_no_such_file_is_named(
    flow_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 0.39 does not read Krea 2."""
    monkeypatch.delattr(diffusers.loaders.FromOriginalModelMixin, "from_single_file")
    path = flow_folder("z_image") / WEIGHTS
    said = refused(path, extras=str(flow_folder("z_image")))
    assert f"diffusers {diffusers.__version__} reads no Z-Image from one file" in said
    assert "name a diffusers folder" in said


@pytest.mark.parametrize(("file", "extras"), [("flux", "schnell"), ("schnell", "flux")])
def test_a_file_of_another_variant_is_refused(
    file: str, extras: str, flow_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX.1-dev has weights that schnell has not: diffusers would leave them out, or make them up."""
    folder, _ = without_weights(flow_folder(extras), tmp_path / "extras")
    fit_conversion(file, monkeypatch, "FluxTransformer2DModel")
    save_file(original(file, load_file(flow_folder(file) / WEIGHTS)), tmp_path / "f.safetensors")
    said = refused(tmp_path / "f.safetensors", extras=str(folder))
    assert ("lacks weights" if file == "schnell" else "numbers more than the transformer") in said


def refused(path: Path, **model: Any) -> str:
    with pytest.raises(ModelError) as error:
        load_flow_model(path, **model)
    return str(error.value)


def test_what_a_file_lacks_is_said(flow_folder: Folder, tmp_path: Path) -> None:
    """The rest of the model, some of its weights, or the right rest."""
    tensors = original("z_image", load_file(flow_folder("z_image") / WEIGHTS))
    path = tmp_path / "z.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    assert "holds the transformer of Z-Image" in refused(path)
    assert "model.extras" in refused(path)
    assert "transformer of Z-Image" in refused(path, extras=str(flow_folder("flux")))
    assert "FLUX.1" in refused(path, extras=str(flow_folder("flux")))
    few = load_file(flow_folder("z_image") / WEIGHTS)
    few.pop("layers.0.attention.to_q.weight")
    save_file(few, path)
    assert "z.safetensors lacks weights" in refused(path, extras=str(flow_folder("z_image")))
    for scale in ("scale_weight", "weight.absmax"):
        save_file({f"layers.0.attention.qkv.{scale}": torch.ones(1)}, path)
        assert "scales beside them" in refused(path, extras=str(flow_folder("z_image")))
    assert "no file" in refused(flow_folder("z_image"), extras=str(flow_folder("z_image")))


def test_an_older_diffusers_is_named_with_the_version_that_is_needed(
    flow_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence."""
    monkeypatch.setattr(source, "diffusers", SimpleNamespace(__version__="0.30.0"))
    assert "Z-Image needs diffusers 0.36 or newer, and 0.30.0 is installed" in refused(flow_folder("z_image"))


def test_a_folder_without_its_text_encoder_is_named(flow_folder: Folder, tmp_path: Path) -> None:
    """When prompts are encoded, by its path."""
    folder = tmp_path / "model"
    shutil.copytree(flow_folder("z_image"), folder, ignore=shutil.ignore_patterns("text_encoder"))
    model = load_flow_model(folder)
    with pytest.raises(ModelError, match=r"text_encoder.* is missing"):
        model.encode(["a"])


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_weights_that_are_missing_are_not_made_up(part: str, flow_folder: Folder, tmp_path: Path) -> None:
    """The libraries would, and say so among their own warnings."""
    folder = shutil.copytree(flow_folder("z_image"), tmp_path / "model")
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    lost = next(key for key in reversed(tensors) if tensors[key].ndim > 1)
    del tensors[lost]
    save_file(tensors, path, {"format": "pt"})

    def use() -> None:
        model = load_flow_model(folder)
        ask(model)
        model.decode(randn(1, 4, 8, 8))

    with pytest.raises(ModelError, match=f"{part} lacks 1 weights, such as {lost}"):
        use()


@pytest.mark.parametrize("kind", ["z_image", "flux", "flux2_klein", "auraflow"])
def test_the_end_of_a_long_prompt_is_said(kind: str, flow_folder: Folder) -> None:
    """What is beyond the tokens that are read, one a letter here."""
    model = load_flow_model(flow_folder(kind))
    long = "a" * 600 + "z"
    model.encode(["a", long])
    assert model.truncated(["a", long]) == [long]
    assert model.cut(long).endswith("z")


class Perfect(nn.Module):
    """A transformer that knows all there is of data with deviation 1/2, in the conventions of its family."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inverted, self.range = kind in ("z_image", "lumina2"), 1000 if kind == "sd3" else 1

    def forward(self, *, return_dict: bool, **inputs: Any) -> tuple[Any]:
        """The velocity of every number by itself: from noise to data, or the other way."""
        x, time = (inputs[one] if one in inputs else inputs[other] for one, other in (NAMES[0], NAMES[1]))
        noise = float(time[0]) / self.range
        noise = 1 - noise if self.inverted else noise
        share = (noise - (1 - noise) / 4) / (noise**2 + (1 - noise) ** 2 / 4)
        velocity = [share * (-one if self.inverted else one) for one in x]
        return (velocity if isinstance(x, list) else torch.stack(velocity),)


NAMES = (("hidden_states", "x"), ("timestep", "t"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_model_keeps_its_variance(kind: str, flow_folder: Folder) -> None:
    """Along the schedule of the family latents have the deviation that they should have: sign, time and noise fit."""
    model = load_flow_model(flow_folder(kind))
    table, shape = model.encode(["a"]), model.latent_shape(512, 512)
    model._transformer = Perfect(kind)
    sampler, x = model.sampler("any", 40, shape), randn(1, *shape)
    x = x / x.std()
    for step in range(39):
        velocity = model.predict(x, sampler.timesteps[step].expand(1), table.rows([0]), torch.zeros(1, 6))
        x = sampler.step(velocity, step, x, seeded(0))
        noise = float(sampler.timesteps[step + 1]) / 1000
        true = (noise**2 + (1 - noise) ** 2 / 4) ** 0.5
        assert abs(x.std().item() / true - 1) < 0.1


def test_schedules_follow_the_size_where_they_shall(flow_folder: Folder) -> None:
    """FLUX.1-dev, Qwen-Image and FLUX.2 walk larger pictures nearer to the noise; Z-Image all alike."""
    for kind, moves in (("flux", True), ("qwen_image", True), ("flux2_klein", True), ("z_image", False)):
        if kind not in KINDS:
            continue
        model = load_flow_model(flow_folder(kind))
        small, large = (model.sampler("any", 8, model.latent_shape(side, side)).timesteps for side in (512, 1024))
        assert bool((large[1:-1] > small[1:-1]).all()) is moves


@pytest.mark.skipif("krea2" not in KINDS, reason="this diffusers has no Krea 2")
def test_krea_2_turbo_has_one_shift_for_all_sizes(tmp_path: Path) -> None:
    """As its pipeline does."""
    model = load_flow_model(write_flow_model("krea2", tmp_path, is_distilled=True))
    small, large = (model.sampler("any", 8, model.latent_shape(side, side)).timesteps for side in (512, 1024))
    assert torch.equal(small, large)
    assert model.distilled is not None
    assert model.distilled.steps == 8


def test_sizes_that_do_not_fit_are_refused(flow_folder: Folder) -> None:
    """A token is 16 pixels wide."""
    with pytest.raises(ModelError, match="72 x 64 pixels is not a multiple of 16"):
        load_flow_model(flow_folder("flux")).latent_shape(72, 64)


def test_signal_and_noise_are_equal_in_the_middle(flow_folder: Folder) -> None:
    """((1 - s) / s) squared."""
    found = load_flow_model(flow_folder("z_image")).snr(torch.tensor([500.0, 800.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0625]))


def test_half_precision_stays_near(flow_folder: Folder) -> None:
    """bf16 weights and states: the prediction is that of float32 to a few hundredths."""
    wide = ask(load_flow_model(flow_folder("z_image")))
    model = load_model(str(flow_folder("z_image")), dtype="bf16", device=CPU)
    assert isinstance(model, FlowDenoiser)
    half = ask(model).float()
    assert 0 < ((half - wide).norm() / wide.norm()).item() < 0.1
