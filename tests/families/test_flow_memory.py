"""What makes large flow models fit: the same answers and gradients, text encoders first, and clear words."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_models import KINDS, in_fewer_bits, load_flow_model
from models import CPU, randn, randomize
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leco_plugin.config.schema import MemoryConfig, NetworkConfig
from leco_plugin.errors import ModelError
from leco_plugin.families.flow.denoiser import FlowDenoiser
from leco_plugin.families.flow.memory import blocks_of
from leco_plugin.families.placement import Placement
from leco_plugin.network.create import create_network
from leco_plugin.network.layers import Size, plan_layers
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_read import LoraFile

Folder = Callable[[str], Path]
PROMPTS = ["a red circle", ""]


def ask(model: FlowDenoiser) -> Tensor:
    """What the model says for two prompts."""
    noise, table = randn(2, *model.latent_shape(64, 64)), model.encode(PROMPTS)
    return model.predict(noise, torch.tensor([900.0, 300.0]), table.rows([0, 1]), torch.zeros(2, 6))


def learn(model: FlowDenoiser) -> tuple[Tensor, Tensor]:
    """What two rows of other strengths say, and all gradients of a LoRA that does something."""
    network = create_network(NetworkConfig(linear=2), model.module, seed=0)
    randomize(network.parameters(), std=0.1)
    with network.multiplier([1.0, -0.5]):
        predicted = ask(model)
        predicted.square().mean().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return predicted.detach(), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_gives_the_same_gradients(kind: str, flow_folder: Folder) -> None:
    """Chroma's mask is there in the second pass, too."""
    plain = learn(load_flow_model(flow_folder(kind)))
    model, calls = load_flow_model(flow_folder(kind), checkpointing=True), []
    first = next(iter(plan_layers(model.module, Size(2, 2.0))))
    model.module.get_submodule(first).register_forward_pre_hook(lambda *_: calls.append(1))
    again = learn(model)
    assert len(calls) == 2, "a layer runs once more in the backward pass"
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["flux", "z_image"])
@pytest.mark.parametrize(("quantize", "far"), [("fp8_base", 0.06), ("int8", 0.02), ("fp8", 0.06), ("nf4", 0.4)])
def test_weights_in_fewer_bits_are_close_and_take_a_lora(
    quantize: str, far: float, kind: str, flow_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the blocks alone; PEFT's LoRA goes on top, row by row, and its file means the same there."""
    plain = load_flow_model(flow_folder(kind))
    small = load_flow_model(flow_folder(kind), memory=in_fewer_bits(quantize, monkeypatch))
    narrowed = {
        name
        for name, layer in small.module.named_modules()
        if isinstance(layer, nn.Linear) and (type(layer.weight.data) is not Tensor or layer.weight.dtype == torch.uint8)
    }
    linears = [name for name, layer in plain.module.named_modules() if isinstance(layer, nn.Linear)]
    inside = {id(layer) for block in blocks_of(plain.module) for layer in block.modules()}
    # diffusers tells layers for bitsandbytes apart by their last names alone
    also = {"proj_out"} if (kind, quantize) == ("flux", "nf4") else set()
    assert narrowed == also | {name for name in linears if id(plain.module.get_submodule(name)) in inside}
    with torch.no_grad():
        wide, close = ask(plain), ask(small)
    assert 1e-6 < ((close - wide).norm() / wide.norm()).item() < far

    network = create_network(NetworkConfig(linear=2), small.module, seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        with network.multiplier([1.0, -0.5]):
            loss = (ask(small) - 0.9 * close).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    with torch.no_grad():
        with network.multiplier([0.0, 1.0]):
            both = ask(small)
        with network.multiplier(1.0):
            ones = ask(small)
    torch.testing.assert_close(both[0], close[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1], ones[1], rtol=0, atol=1e-5)
    network.save(tmp_path / "lora.safetensors", "float32", {})
    again = load_flow_model(flow_folder(kind), memory=in_fewer_bits(quantize, monkeypatch))
    loaded = LoadedLora(again.module, LoraFile.read(tmp_path / "lora.safetensors"))
    with torch.no_grad(), loaded.multiplier(1.0):
        torch.testing.assert_close(ask(again), ones, rtol=0, atol=1e-5)
    on = NetworkConfig(linear=2, network_weights=tmp_path / "lora.safetensors", dim_from_weights=True)
    started = create_network(
        on, load_flow_model(flow_folder(kind), memory=in_fewer_bits(quantize, monkeypatch)).module, 1
    )
    for one, other in zip(network.parameters(), started.parameters(), strict=True):
        assert one.shape == other.shape


def test_offloading_changes_nothing(flow_folder: Folder) -> None:
    """The same answers and gradients, and the LoRA stays where it is trained."""
    plain = learn(load_flow_model(flow_folder("z_image")))
    away = learn(load_flow_model(flow_folder("z_image"), memory=MemoryConfig(offload="layers"), checkpointing=True))
    for one, other in zip(plain, away, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


class Moved(nn.Linear):
    """Writes down where it is sent."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.sent: list[str] = []

    def to(self, *args: Any, **more: Any) -> Any:
        self.sent.append(str(args[0]))
        return self


def test_the_model_makes_room_while_prompts_are_encoded() -> None:
    """Off the device before the text encoders come, back after them; one that must stay moves its LoRA alone."""
    module = Moved()
    placement = Placement(module, torch.device("meta"))
    placement.leave()
    placement.take()
    assert module.sent == ["cpu", "meta"]
    there = Moved()
    Placement(there, CPU).leave()
    assert there.sent == [], "there is nothing but the CPU"


def test_text_encoders_are_gone_before_the_transformer_is_used(
    flow_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt a call, all of them before the transformer takes its place; a prompt that is known needs none."""
    model, order, encoders = load_flow_model(flow_folder("flux")), [], []
    recipe = model._recipe

    def told(pipe: Any, prompt: str, length: int) -> Any:
        order.append(prompt)
        encoders.extend([pipe.text_encoder, pipe.text_encoder_2])
        return recipe.text(pipe, prompt, length)

    def take() -> None:
        weights = [weight for encoder in encoders for weight in encoder.parameters()]
        order.append("take" if all(weight.is_meta for weight in weights) else "too early")

    object.__setattr__(model, "_recipe", type(recipe)(**{**vars(recipe), "text": told}))
    monkeypatch.setattr(model._placement, "leave", lambda: order.append("leave"))
    monkeypatch.setattr(model._placement, "take", take)
    model.encode(PROMPTS)
    assert order == ["leave", *PROMPTS, "take"]
    model.encode(PROMPTS[1:])
    assert order[4:] == ["take"]


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({"quantize": "nf4", "offload": "layers"}, "cannot be offloaded"),
        ({"quantize": "int8", "fp8_base": True}, "do the same"),
    ],
)
def test_what_does_not_go_together_is_refused(memory: dict[str, Any], said: str) -> None:
    """Where the job is read."""
    with pytest.raises(ValidationError, match=said):
        MemoryConfig(**memory)


@pytest.mark.parametrize("memory", [{"quantize": "nf4"}, {"offload": "stream"}])
def test_what_a_cpu_lacks_is_named(
    memory: dict[str, Any], flow_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what there is instead."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ModelError, match="works on CUDA devices only") as error:
        load_flow_model(flow_folder("z_image"), memory=MemoryConfig(**memory))
    assert error.value.problems[0].fix in ("set memory.quantize: int8", "set memory.offload: layers")


@pytest.mark.parametrize(("quantize", "package"), [("fp8", "torchao"), ("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_missing_package_is_named(
    quantize: Any, package: str, flow_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line that installs it."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ModelError) as error:
        load_flow_model(flow_folder("z_image"), memory=MemoryConfig(quantize=quantize))
    assert error.value.problems[0].fix == f"pip install {package}"


def test_a_training_adapter_is_part_of_the_model_and_of_no_file(flow_folder: Folder, tmp_path: Path) -> None:
    """Fused, the model says what it says with the LoRA on; what is trained on it is saved without."""
    model = load_flow_model(flow_folder("z_image"))
    adapter = create_network(NetworkConfig(linear=2, linear_alpha=2), model.module, seed=3)
    randomize(adapter.parameters(), std=0.1)
    with torch.no_grad(), adapter.multiplier(1.0):
        wanted = ask(model)
    adapter.save(tmp_path / "adapter.safetensors", "float32", {})

    fused = load_flow_model(flow_folder("z_image"), training_adapter=str(tmp_path / "adapter.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(ask(fused), wanted, rtol=0, atol=1e-5)
    assert not any("lora" in name for name, _ in fused.module.named_parameters())
    create_network(NetworkConfig(linear=2), fused.module, seed=0).save(tmp_path / "trained.safetensors", "float32", {})
    ups = [tensor for key, tensor in load_file(tmp_path / "trained.safetensors").items() if "lora_B" in key]
    assert all(not up.any() for up in ups), "a LoRA that was not trained yet does nothing"


def test_an_adapter_that_cannot_be_read_is_named(flow_folder: Folder, tmp_path: Path) -> None:
    """Missing, or for another model."""
    with pytest.raises(ModelError, match="is no file"):
        load_flow_model(flow_folder("z_image"), training_adapter=str(tmp_path / "no.safetensors"))
    save_file({"transformer.blocks.0.lora_A.weight": torch.ones(2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        load_flow_model(flow_folder("z_image"), training_adapter=str(tmp_path / "other.safetensors"))
