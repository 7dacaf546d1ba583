"""Our forward pass of PEFT's LoRA layers computes what PEFT's own does, with fewer kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from models import randn, randomize, small_unet
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from leco_plugin.families.fp8 import narrow
from leco_plugin.network.layers import Size, plan_layers
from leco_plugin.network.peft_lora import ADAPTER, PeftLora

STRENGTHS = [[1.0] * 4, [0.7] * 4, [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, -1.5, 0.25], [0.0, 1.0, 0.0, 2.0]]


def unet_with_lora(dtype: torch.dtype, weights: torch.dtype | None = None) -> tuple[Any, PeftLora]:
    """With a LoRA on linears, 1x1 and 3x3 convolutions, of two sizes, far from zero."""
    unet = small_unet().to(dtype)
    plan = plan_layers(unet, Size(4, 2.0), Size(3, 6.0))
    network = PeftLora(unet, rank=4, alpha=2.0, seed=0, plan=plan, dtype=weights or dtype)
    randomize(network.parameters(), std=0.1)
    return unet, network


def use_peft(unet: nn.Module, strengths: Sequence[float]) -> None:
    """Give every layer PEFT's own forward pass back, at these strengths."""
    for layer in unet.modules():
        if isinstance(layer, LoraLayer):
            layer.__class__ = type(layer).__base__
            times = torch.tensor(strengths, dtype=torch.float64) * layer.scaling[ADAPTER]
            given = 4 if isinstance(layer.get_base_layer(), nn.Conv2d) else 3
            layer.register_forward_pre_hook(
                lambda layer, inputs, times=times, given=given: layer.scaling.update(
                    {ADAPTER: times.to(inputs[0].dtype).reshape(-1, *[1] * (min(inputs[0].ndim, given) - 1))}
                )
            )


def asked(unet: Any) -> Tensor:
    """Four rows."""
    dtype = unet.dtype
    inputs = randn(4, 4, 8, 8).to(dtype), torch.tensor([900, 500, 100, 10]), randn(4, 5, 8, seed=1).to(dtype)
    predicted: Tensor = unet(*inputs, return_dict=False)[0]
    return predicted


@pytest.mark.parametrize("strengths", STRENGTHS, ids=str)
@pytest.mark.parametrize("gradient", [False, True], ids=["no gradient", "gradient"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_it_computes_what_peft_does(strengths, gradient, checkpointing):
    """Predictions and gradients in float64, of linears and convolutions, for one strength and for one a row."""
    unet, network = unet_with_lora(torch.float64)
    if checkpointing:
        unet.train().enable_gradient_checkpointing()

    def run() -> list[Tensor]:
        with torch.set_grad_enabled(gradient), network.multiplier(strengths):
            predicted = asked(unet)
            if not gradient:
                return [predicted]
            return [predicted.detach(), *torch.autograd.grad(predicted.square().sum(), network.parameters())]

    ours = run()
    use_peft(unet, strengths)
    for one, other in zip(ours, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * float(other.abs().max()))


@pytest.mark.parametrize("strengths", STRENGTHS, ids=str)
def test_up_weights_that_are_not_multiplied_beforehand_give_the_same(monkeypatch, strengths):
    """Where the memory for that is too much, the strength meets the middle."""
    unet, network = unet_with_lora(torch.float64)
    with torch.no_grad(), network.multiplier(strengths):
        beforehand = asked(unet)
    monkeypatch.setattr("leco_plugin.network.lean._MOST_ROW_BYTES", 0)
    with torch.no_grad(), network.multiplier(strengths):
        torch.testing.assert_close(asked(unet), beforehand, rtol=1e-12, atol=1e-12)


def test_float32_weights_train_a_bf16_model():
    """Gradients come back in float32, as near to those of a float32 model as bf16 is."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        unet, network = unet_with_lora(dtype, torch.float32)
        with network.multiplier([1.0, 0.5, -1.0, 1.0]):
            gradients = torch.autograd.grad(asked(unet).float().square().sum(), network.parameters())
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


class Integers(nn.Linear):
    """A linear layer that holds eight bits a number and widens them when it is asked."""

    def __init__(self, wide: nn.Linear) -> None:
        super().__init__(wide.in_features, wide.out_features, device="meta")
        self.scale = wide.weight.abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((wide.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = wide.bias

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.scale, self.bias)


def in_four_bits(wide: nn.Linear) -> nn.Module:
    """As bitsandbytes holds it."""
    package = pytest.importorskip("bitsandbytes")
    held = package.nn.Linear4bit(wide.in_features, wide.out_features, wide.bias is not None, quant_type="nf4")
    held.load_state_dict(wide.state_dict())
    return cast(nn.Module, held.to("cpu").requires_grad_(False))


def quantized(unet: nn.Module, how: str) -> None:
    """Hold the linear layers in fewer bits; skip where that takes a package that is not there."""
    if how == "fp8_base":
        narrow(unet)
    elif how == "torchao":
        package = pytest.importorskip("torchao.quantization")
        package.quantize_(unet, package.Int8WeightOnlyConfig())
    else:
        make = Integers if how == "stand-in" else in_four_bits
        for name, layer in list(unet.named_modules()):
            if type(layer) is nn.Linear:
                parent, _, own = name.rpartition(".")
                setattr(unet.get_submodule(parent), own, make(layer))


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without")
@pytest.mark.parametrize("how", ["stand-in", "fp8_base", "torchao", "bitsandbytes"])
def test_a_base_in_fewer_bits_takes_it_as_it_takes_pefts(how):
    """Predictions and gradients; the LoRA computes in the precision of what is around."""
    unet = small_unet()
    quantized(unet, how)
    network = PeftLora(unet, rank=4, alpha=2.0, seed=0)
    randomize(network.parameters(), std=0.1)

    def run() -> list[Tensor]:
        with network.multiplier([1.0, 0.5, -1.0, 0.0]):
            predicted = asked(unet)
        gradients = torch.autograd.grad(predicted.square().sum(), network.parameters())
        return [predicted.detach(), *gradients]

    ours = run()
    use_peft(unet, [1.0, 0.5, -1.0, 0.0])
    for one, other in zip(ours, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_at_strength_0_the_model_is_the_bare_one_bit_for_bit():
    """Also in the rows of a batch that has others."""
    unet, network = unet_with_lora(torch.float32)
    with torch.no_grad():
        bare = asked(small_unet())
        with network.multiplier(0.0):
            assert torch.equal(asked(unet), bare)
        with network.multiplier([0.0, 0.0, 1.0, 0.0]):
            mixed = asked(unet)
    torch.testing.assert_close(mixed[[0, 1, 3]], bare[[0, 1, 3]], rtol=1e-6, atol=1e-6)
    assert (mixed[2] - bare[2]).abs().max() > 1e-2


@pytest.mark.parametrize("strengths", [[0.0] * 4 + [1.0] * 2, [0.0] * 4 + [1.0, -1.0]], ids=str)
def test_a_call_has_at_most_half_as_many_kernels_again_as_the_bare_model(strengths):
    """Counted in bf16 on the built-in model; without a strength not one more."""
    count = benchmark()
    bare = count.bare("builtin:tiny", 6).total()
    assert count.with_lean("builtin:tiny", strengths).total() <= 1.5 * bare
    assert count.with_lean("builtin:tiny", [0.0] * 6).total() == bare
    assert count.with_peft("builtin:tiny", strengths).total() > 3 * bare


def benchmark() -> ModuleType:
    """benchmarks/count_kernels.py."""
    place = Path(__file__).parents[2] / "benchmarks" / "count_kernels.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_kernels", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
