"""What makes large flow models fit: the same answers and gradients, text encoders first, and clear words."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_models import KINDS, load_flow_model
from models import CPU, randn, randomize
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leco_plugin.config.schema import MemoryConfig, NetworkConfig
from leco_plugin.errors import ModelError
from leco_plugin.families.flow.denoiser import FlowDenoiser
from leco_plugin.families.flow.memory import blocks_of
from leco_plugin.families.fp8 import is_narrow
from leco_plugin.families.placement import Placement
from leco_plugin.network.create import create_network
from leco_plugin.network.layers import Size, plan_layers

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


@pytest.mark.parametrize("kind", ["flux", "z_image", "qwen_image"])
def test_eight_bits_of_our_own_are_close(kind: str, flow_folder: Folder) -> None:
    """Weights of the blocks in eight bits; what is said changes by a few hundredths, and a LoRA learns on it."""
    plain, narrow = (
        load_flow_model(flow_folder(kind), memory=MemoryConfig(fp8_base=on)) for on in (False, True)
    )  # fmt: skip
    assert any(is_narrow(layer) for block in blocks_of(narrow.module) for layer in block.modules())
    with torch.no_grad():
        wide, close = ask(plain), ask(narrow)
    assert 1e-5 < ((close - wide).norm() / wide.norm()).item() < 0.15
    assert learn(narrow)[1].isfinite().all()


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_int8_of_torchao_is_close_and_trains(flow_folder: Folder) -> None:
    """diffusers quantizes the linears, and PEFT's LoRA goes on top."""
    plain = load_flow_model(flow_folder("flux"))
    small = load_flow_model(flow_folder("flux"), memory=MemoryConfig(quantize="int8"))
    kinds = {type(layer.weight).__name__ for layer in small.module.modules() if isinstance(layer, nn.Linear)}
    assert kinds != {"Parameter"}
    with torch.no_grad():
        wide, close = ask(plain), ask(small)
    assert 1e-6 < ((close - wide).norm() / wide.norm()).item() < 0.1
    assert learn(small)[1].abs().max() > 0


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
    """One prompt a call, all of them before the transformer takes its place."""
    model, order = load_flow_model(flow_folder("flux")), []
    recipe = model._recipe

    def told(pipe: Any, prompt: str, length: int) -> Any:
        order.append(prompt)
        return recipe.text(pipe, prompt, length)

    object.__setattr__(model, "_recipe", type(recipe)(**{**vars(recipe), "text": told}))
    monkeypatch.setattr(model._placement, "leave", lambda: order.append("leave"))
    monkeypatch.setattr(model._placement, "take", lambda: order.append("take"))
    model.encode(PROMPTS)
    assert order == ["leave", *PROMPTS, "take"]


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({"quantize": "nf4", "offload": "layers"}, "cannot be offloaded"),
        ({"quantize": "int8", "fp8_base": True}, "do the same"),
    ],
)
def test_what_does_not_go_together_is_refused(memory: dict[str, Any], said: str, flow_folder: Folder) -> None:
    """Before a model is loaded."""
    with pytest.raises(ModelError, match=said):
        load_flow_model(flow_folder("z_image"), memory=MemoryConfig(**memory))


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
