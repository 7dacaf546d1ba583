"""Options that save memory: the same predictions and gradients, and clear words where a platform lacks them."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, randn, randomize, small_unet
from small_models import model_folder
from torch import Tensor, nn

from leco_plugin.config.schema import MemoryConfig, NetworkConfig
from leco_plugin.errors import ModelError
from leco_plugin.families import memory
from leco_plugin.families.compiled import Compiled, compile_blocks
from leco_plugin.families.fp8 import is_narrow, narrow, widened
from leco_plugin.families.load import load_model
from leco_plugin.families.memory import apply_memory, check_platform
from leco_plugin.network.create import create_network

CUDA = torch.device("cuda")
HIDDEN_BY_TORCH = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""It asks for one where a block's input is not a leaf, and hides that warning, which is an error here."""


def learn(unet: Any, *, checkpointing: bool = False, strength: Any = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Predictions of two rows with a random LoRA, convolutions included, and its gradients."""
    if checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    network = create_network(NetworkConfig(linear=4, conv=2), unet, seed=0)
    randomize(network.parameters(), std=0.1)
    with network.multiplier(strength):
        predicted = unet(randn(2, 4, 8, 8), torch.tensor(300), randn(2, 5, 8, seed=1)).sample
        gradients = torch.autograd.grad(predicted.square().sum(), network.parameters())
    return predicted.detach(), list(gradients)


def assert_same(one: tuple[Tensor, list[Tensor]], two: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(one[0], two[0], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_efficient_attention_computes_the_same(checkpointing: bool):
    """Predictions and gradients are those of torch's attention."""
    plain, efficient = small_unet(), small_unet()
    apply_memory(plain, MemoryConfig())
    apply_memory(efficient, MemoryConfig(attention="mem_eff"))

    assert {type(part).__name__ for part in efficient.attn_processors.values()} == {"MemoryEfficientProcessor"}
    assert_same(learn(efficient, checkpointing=checkpointing), learn(plain))


def test_memory_efficient_attention_keeps_out_the_kernel_for_whole_matrices(monkeypatch: pytest.MonkeyPatch):
    """While it runs, torch's mathematical kernel is off."""
    seen: list[bool] = []
    attention = nn.functional.scaled_dot_product_attention

    def watch(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(torch.backends.cuda.math_sdp_enabled())
        return attention(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watch)
    unet = small_unet()
    apply_memory(unet, MemoryConfig(attention="mem_eff"))
    unet(randn(2, 4, 8, 8), torch.tensor(300), randn(2, 5, 8))
    assert seen
    assert not any(seen)
    assert torch.backends.cuda.math_sdp_enabled()


def plain_of(unet: nn.Module) -> nn.Module:
    """A plain UNet of the weights that a narrowed one stands for."""
    plain = small_unet()
    for name, layer in unet.named_modules():
        if is_narrow(layer):
            plain.get_submodule(name).weight.data = widened(layer).float()
    return plain


@pytest.mark.parametrize("checkpointing", [False, True])
def test_eight_bits_compute_what_their_weights_say(checkpointing: bool):
    """Predictions and gradients are those of a plain UNet that has the rounded weights."""
    unet = small_unet()
    narrow(unet)
    plain = plain_of(unet)

    assert_same(learn(unet, checkpointing=checkpointing, strength=[1.0, -0.5]), learn(plain, strength=[1.0, -0.5]))


def test_eight_bits_are_close_and_half_as_large_as_sixteen():
    """All large weights are narrow, small ones survive by their scale, and predictions stay near."""
    unet, plain = small_unet().bfloat16(), small_unet()
    with torch.no_grad():
        for model in (unet, plain):
            model.mid_block.resnets[0].conv1.weight *= 1e-4
    narrow(unet)
    large = [weight for name, weight in unet.named_parameters() if weight.ndim > 1 and "_block" in name]
    error = widened(unet.mid_block.resnets[0].conv1).float() - plain.mid_block.resnets[0].conv1.weight

    assert {weight.dtype.itemsize for weight in large} == {1}
    assert error.norm() < 0.05 * plain.mid_block.resnets[0].conv1.weight.norm()
    inputs = randn(2, 4, 8, 8), torch.tensor(300), randn(2, 5, 8)
    rough = unet(inputs[0].bfloat16(), inputs[1], inputs[2].bfloat16()).sample.float()
    exact = plain(*inputs).sample
    assert (rough - exact).norm() < 0.1 * exact.norm()


def test_a_lora_on_eight_bits_begins_as_it_does_on_more():
    """Its own weights are never rounded to eight bits."""
    unet, plain = small_unet(), small_unet()
    narrow(unet)
    parameters = [create_network(NetworkConfig(conv=2), model, seed=3).parameters() for model in (unet, plain)]

    assert all(torch.equal(one, two) for one, two in zip(*parameters, strict=True))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_options_reach_the_model_that_is_loaded(family: str, tmp_path: Path):
    """fp8_base and lowram give a model that predicts about the same; the LoRA is on its own."""
    folder, _ = model_folder(family, tmp_path)
    exact = load_model(str(folder), dtype="fp32", device=CPU)
    low = load_model(
        str(folder), dtype="bf16", device=CPU, memory=MemoryConfig(fp8_base=True, lowram=True, attention="mem_eff")
    )
    assert any(map(is_narrow, low.module.modules()))
    assert not any(weight.requires_grad for weight in low.module.parameters())
    answers = []
    for denoiser in (exact, low):
        sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
        rows = denoiser.encode(["red"]).rows([0])
        with torch.no_grad():
            answers.append(denoiser.predict(randn(1, 4, 8, 8), torch.tensor([500]), rows, sizes).float())
    assert (answers[1] - answers[0]).norm() < 0.15 * answers[0].norm()


def test_lowram_loads_the_same_weights(tmp_path: Path):
    """Straight onto the device, from a folder."""
    folder, pipeline = model_folder("sd1", tmp_path)
    low = load_model(str(folder), dtype="fp32", device=CPU, memory=MemoryConfig(lowram=True))

    loaded = low.module.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in pipeline.unet.state_dict().items())


@HIDDEN_BY_TORCH
def test_a_compiled_model_computes_the_same():
    """With the LoRA on, per row and in training; the compiler is called with what the LoRA added."""
    graphs, backend = counting()
    unet, plain = (small_unet(block_out_channels=(8, 8)) for _ in range(2))
    apply_memory(plain, MemoryConfig())
    object.__setattr__(options := MemoryConfig(torch_compile=True), "dynamo_backend", backend)
    apply_memory(unet, options)
    assert_same(learn(unet, strength=[1.0, -0.5]), learn(plain, strength=[1.0, -0.5]))
    assert graphs


def test_a_new_strength_and_another_number_of_rows_compile_nothing_again():
    """One graph for strengths by row, one for one number, one for the base model alone; they predict the same."""
    graphs, backend = counting()
    unet, plain = (small_unet(block_out_channels=(8, 8)) for _ in range(2))
    networks = [create_network(NetworkConfig(linear=2), model, seed=0) for model in (unet, plain)]
    for network in networks:
        randomize(network.parameters())
    object.__setattr__(options := MemoryConfig(torch_compile=True), "dynamo_backend", backend)
    apply_memory(unet, options)
    counts = []
    for strength in ([1.0, 0.0], [0.5, -1.0, 1.0], [3.0] * 7, [1.0] * 16, 0.0, 1.0, -1.0, 2):
        rows = len(strength) if isinstance(strength, list) else 5
        inputs = randn(rows, 4, 8, 8), torch.linspace(900, 20, rows).long(), randn(rows, 5, 8)
        with torch.no_grad(), networks[0].multiplier(strength), networks[1].multiplier(strength):
            torch.testing.assert_close(unet(*inputs).sample, plain(*inputs).sample)
        counts.append(len(graphs))
    assert counts == [1] * 4 + [2] + [3] * 3


def counting() -> tuple[list[torch.fx.GraphModule], Any]:
    """A backend that compiles nothing, and the graphs that it was given since."""
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    return graphs, backend


@HIDDEN_BY_TORCH
def test_blocks_that_are_alike_are_compiled_once():
    """With a LoRA on them, in eight bits, checkpointed: the number of blocks makes no difference."""
    graphs, backend = counting()
    unet = small_unet(transformer_layers_per_block=3, block_out_channels=(8, 8))
    unet.train().enable_gradient_checkpointing()
    object.__setattr__(options := MemoryConfig(torch_compile=True, fp8_base=True), "dynamo_backend", backend)
    apply_memory(unet, options)
    network = create_network(NetworkConfig(linear=2), unet, seed=0)
    with network.multiplier([1.0, 0.5]):
        unet(randn(2, 4, 8, 8), torch.tensor([300, 20]), randn(2, 5, 8)).sample.sum().backward()
    compiled = Compiled(unet, "")
    assert (len(compiled.blocks), len(compiled.kinds)) == (12, 1)
    # the first of a row of blocks is handed its input in another order of memory
    assert len(graphs) == 2


def test_what_was_compiled_is_kept_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second start of the same says so; another network, or another model, is compiled anew."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    unets = small_unet(), small_unet(), small_unet(cross_attention_dim=4)
    for unet in unets:
        compile_blocks(unet, "eager")
    first, same, wider = (Compiled(unet, "rank 4") for unet in unets)
    assert "4 blocks of 2 kinds at their first calls" in str(first)
    first.keep()
    assert f"from {tmp_path}, where an earlier run left them" in str(same)
    for other in (wider, Compiled(unets[1], "rank 8"), Compiled(unets[1], "rank 4", kept=False)):
        assert "at their first calls, which takes about 1 min" in str(other)
    assert "nothing" in str(Compiled(small_unet(), "rank 4"))


def test_without_a_folder_of_the_users_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch):
    """Not the temporary one that torch takes by itself, and puts into the environment when it is first used."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_somebody")
    monkeypatch.setenv("TORCH_HOME", "/home/of/torch")
    compile_blocks(small_unet(), "eager")
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == Path("/home/of/torch/inductor")


@pytest.mark.parametrize(
    ("options", "device", "missing", "said"),
    [
        ({"attention": "xformers"}, CPU, "", "works on CUDA devices only"),
        ({"attention": "xformers"}, CUDA, "xformers", "pip install xformers"),
        ({"attention": "mem_eff"}, CPU, "torch.nn.attention", "torch 2.3"),
        ({"torch_compile": True}, CUDA, "triton", "pip install triton"),
        ({"torch_compile": True}, CPU, "g++", r"C\+\+ compiler"),
    ],
)
def test_what_a_platform_lacks_is_said_before_anything_is_loaded(
    options: Any, device: torch.device, missing: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    """One sentence and the way out, even where the model does not exist."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ModelError, match=said) as caught:
        load_model("no/such model", dtype="fp32", device=device, memory=MemoryConfig(**options))
    assert caught.value.problems[0].fix


def test_nothing_is_missing_for_the_defaults():
    """They work everywhere."""
    for device in (CPU, CUDA, torch.device("mps")):
        check_platform(MemoryConfig(), device)
    assert memory.MemoryConfig().attention == "sdpa"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_unet_makes_room_for_the_text_encoders(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It leaves the device before prompts are encoded, one prompt a call, and is back when every encoder is gone."""
    denoiser = load_model(str(model_folder(family, tmp_path)[0]), dtype="fp32", device=CPU)
    order: list[str] = []
    encoders: list[weakref.ref[Any]] = []
    load = denoiser._source.text_encoder

    def encoder(number: int) -> Any:
        happened("load")
        found = load(number)
        found.register_forward_pre_hook(lambda _, inputs: order.append(f"{len(inputs[0])} prompt"))
        encoders.append(weakref.ref(found))
        return found

    def happened(what: str) -> None:
        gc.collect()
        order.append(what if all(one() is None for one in encoders) else f"{what} too early")

    monkeypatch.setattr(denoiser._source, "text_encoder", encoder)
    monkeypatch.setattr(denoiser._placement, "leave", lambda: happened("leave"))
    monkeypatch.setattr(denoiser._placement, "take", lambda: happened("take"))
    denoiser.encode(["a red circle", "a star"])
    each = ["load", "1 prompt", "1 prompt"]
    assert order == ["leave", *each * (2 if family == "sdxl" else 1), "take"]
