"""The LoRA on a real UNet: where it goes, how strong it is, and that it leaves no trace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from models import randn, randomize, small_unet
from torch import Tensor, nn

from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import NetworkError
from leco_plugin.network.create import create_network
from leco_plugin.network.lora_file import kohya_tensors, write_lora
from leco_plugin.network.peft_lora import PeftLora, transformer_layers

STRENGTHS = [1.0, 0.0, -1.5, 0.25]


def lora_on(unet: nn.Module, *, rank: int = 4, alpha: float = 2.0, random: bool = True) -> PeftLora:
    network = PeftLora(unet, rank=rank, alpha=alpha, seed=0)
    if random:
        randomize(network.parameters())
    return network


def ask(unet: UNet2DConditionModel, rows: slice = slice(None)) -> Tensor:
    """Predictions for four fixed rows, or for some of them."""
    latents, text = randn(4, 4, 8, 8)[rows], randn(4, 5, 8, seed=1)[rows]
    timesteps = torch.tensor([900, 500, 100, 10])[rows]
    dtype = unet.dtype
    with torch.no_grad():
        predicted: Tensor = unet(latents.to(dtype), timesteps, text.to(dtype), return_dict=False)[0]
    return predicted


@pytest.mark.parametrize("linear_projections", [False, True], ids=["1x1 convolutions", "linears"])
def test_a_strength_per_row_is_a_call_per_row(linear_projections):
    """One batch of four strengths equals four calls; projections of both kinds take part."""
    unet = small_unet(use_linear_projection=linear_projections)
    network = lora_on(unet)
    with network.multiplier(STRENGTHS):
        together = ask(unet)
    for row, strength in enumerate(STRENGTHS):
        with network.multiplier(strength):
            alone = ask(unet, slice(row, row + 1))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)
    assert (together[0] - ask(small_unet(use_linear_projection=linear_projections))[0]).abs().max() > 1e-2


def test_gradients_of_a_batch_are_the_sum_of_calls():
    """Each row pulls at the weights with its own strength."""
    unet = small_unet()
    network = lora_on(unet)

    def gradients(strength: float | list[float], rows: slice) -> list[Tensor]:
        latents, text = randn(4, 4, 8, 8)[rows], randn(4, 5, 8, seed=1)[rows]
        with network.multiplier(strength):
            loss = unet(latents, torch.tensor(300), text).sample.square().sum()
            return list(torch.autograd.grad(loss, network.parameters()))

    together = gradients(STRENGTHS, slice(None))
    alone = [gradients(strength, slice(row, row + 1)) for row, strength in enumerate(STRENGTHS)]
    for number, whole in enumerate(together):
        torch.testing.assert_close(whole, sum(parts[number] for parts in alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strength", [0, 0.0, [0.0, 0.0, 0.0, 0.0]])
def test_strength_zero_is_the_base_model_bit_for_bit(strength):
    """Also as one of several strengths."""
    unet = small_unet()
    before = ask(unet)
    network = lora_on(unet)
    with network.multiplier(strength):
        assert torch.equal(ask(unet), before)
    with network.multiplier([0.0, 1.0, 0.0, 1.0]):
        mixed = ask(unet)
    assert torch.equal(mixed[0::2], before[0::2])
    assert not torch.equal(mixed[1], before[1])


def test_a_new_lora_changes_nothing_at_any_strength():
    """Its up weights are zero."""
    unet = small_unet()
    before = ask(unet)
    network = lora_on(unet, random=False)
    with network.multiplier(-3.0):
        assert torch.equal(ask(unet), before)


def test_alpha_over_rank_scales_the_strength():
    """Alpha 8 at strength 1 is alpha 4 at strength 2."""
    answers = []
    for alpha, strength in ((8.0, 1.0), (4.0, 2.0)):
        unet = small_unet()
        with lora_on(unet, alpha=alpha).multiplier(strength):
            answers.append(ask(unet))
    torch.testing.assert_close(*answers)


def test_the_block_restores_what_it_found():
    """Nested blocks of both kinds, and after an exception."""
    unet = small_unet()
    network = lora_on(unet)
    outside = ask(unet)
    with network.multiplier(-1.0):
        within = ask(unet)
        with network.multiplier(STRENGTHS):
            pass
        assert torch.equal(ask(unet), within)
        with pytest.raises(RuntimeError, match="in between"), network.multiplier(0.5):
            raise RuntimeError("in between")
        assert torch.equal(ask(unet), within)
    assert torch.equal(ask(unet), outside)


def test_a_strength_per_row_survives_checkpointing():
    """The recomputed forward sees the strengths of its rows, since they are set until backward is through."""
    gradients = []
    for checkpointing in (False, True):
        unet = small_unet()
        network = lora_on(unet)
        if checkpointing:
            unet.train()
            unet.enable_gradient_checkpointing()
        with network.multiplier(STRENGTHS):
            loss = unet(randn(4, 4, 8, 8), torch.tensor(300), randn(4, 5, 8, seed=1)).sample.square().sum()
            gradients.append(torch.autograd.grad(loss, network.parameters()))
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-5)


def test_the_lora_goes_on_attention_feed_forward_and_projections():
    """Every one of them in every transformer block, and nothing else: no resnet, no time embedding, no resampling."""
    unet = small_unet()
    layers = transformer_layers(unet)
    kinds = {re.sub(r"^.*attentions\.\d+\.(transformer_blocks\.\d+\.)?", "", layer) for layer in layers}
    attention = {f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    assert kinds == attention | {"ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"}
    # one block on the way down, one in the middle, two on the way up, twelve layers each
    assert len(layers) == len(set(layers)) == 4 * 12
    lora_on(unet)
    found = {name.split(".lora_")[0] for name, _ in unet.named_parameters() if ".lora_" in name}
    assert found == set(layers)


def test_every_layer_takes_part():
    """Each pair of weights has a gradient, and in a fixed order: down before up, layer by layer."""
    unet = small_unet()
    network = lora_on(unet)
    with network.multiplier(1.0):
        loss = unet(randn(1, 4, 8, 8), torch.tensor(300), randn(1, 5, 8)).sample.square().sum()
        gradients = torch.autograd.grad(loss, network.parameters())
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    weights = list(network.weights().values())
    assert [tuple(parameter.shape) for parameter in network.parameters()] == [
        tuple(part.shape) for layer in weights for part in (layer["lora_down.weight"], layer["lora_up.weight"])
    ]


def test_the_base_model_stays_frozen():
    """Only LoRA weights ask for a gradient."""
    unet = small_unet()
    lora_on(unet)
    assert all((".lora_" in name) == weight.requires_grad for name, weight in unet.named_parameters())


def test_a_model_without_transformer_blocks_is_refused():
    """By the name of its class."""
    with pytest.raises(NetworkError, match="Sequential"):
        PeftLora(nn.Sequential(nn.Linear(4, 4)), rank=4, alpha=4.0, seed=0)


def test_lora_weights_are_float32_on_a_bf16_model():
    """Small updates would be lost in bf16; the model stays bf16, and both work together."""
    unet = small_unet().to(torch.bfloat16)
    network = lora_on(unet)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert {weight.dtype for name, weight in unet.named_parameters() if ".lora_" not in name} == {torch.bfloat16}
    with network.multiplier(STRENGTHS):
        predicted = ask(unet)
    assert predicted.dtype == torch.bfloat16
    exact = small_unet()
    with lora_on(exact).multiplier(STRENGTHS):
        torch.testing.assert_close(predicted.float(), ask(exact), rtol=0.1, atol=0.1)


def test_initial_weights_depend_on_the_seed_alone():
    """Whatever torch's own generator stands at; and it stands there still afterwards."""

    def initial(seed: int, noise: int) -> list[Tensor]:
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        network = PeftLora(small_unet(), rank=4, alpha=4.0, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return [parameter.data for parameter in network.parameters()]

    one, two, other = initial(1, 0), initial(1, 1), initial(2, 0)
    assert all(map(torch.equal, one, two))
    assert not all(map(torch.equal, one, other))
    assert all(bool(weight.any()) == (number % 2 == 0) for number, weight in enumerate(one))


def start_from(path: Path, unet: UNet2DConditionModel, **network: Any) -> PeftLora:
    config = NetworkConfig(network_weights=path, **network)
    created = create_network(config, unet, seed=0)
    assert isinstance(created, PeftLora)
    return created


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_saved_lora_comes_back(tmp_path, dtype):
    """Same weights in that precision, same rank and alpha (1.3 is no bfloat16), same answers."""
    unet, again = small_unet(), small_unet()
    network = lora_on(unet, rank=3, alpha=1.3)
    network.save(tmp_path / "lora.safetensors", dtype, {})
    loaded = start_from(tmp_path / "lora.safetensors", again, linear=3, linear_alpha=1.3)
    precision = getattr(torch, dtype)
    for one, two in zip(network.parameters(), loaded.parameters(), strict=True):
        assert two.dtype == torch.float32
        assert torch.equal(one.data.to(precision).float(), two.data)
    with network.multiplier(1.0), loaded.multiplier(1.0):
        torch.testing.assert_close(ask(unet), ask(again), rtol=0.05, atol=1e-6 if dtype == "float32" else 0.05)
    loaded.save(tmp_path / "again.safetensors", dtype, {})
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "lora.safetensors").read_bytes()


def test_a_lora_of_another_model_does_not_fit(tmp_path):
    """Same names with other widths, or other names: one sentence with the file's name, and no trace in the model."""
    wide, deep = small_unet(block_out_channels=(16, 32)), small_unet(layers_per_block=2)
    path = tmp_path / "lora.safetensors"
    for other in (wide, deep):
        lora_on(other).save(path, "float32", {})
        unet = small_unet()
        with pytest.raises(NetworkError, match=re.escape(str(path))):
            start_from(path, unet, linear=3)
        assert not any(".lora_" in key for key, _ in unet.named_parameters())


def test_a_lora_for_a_part_of_the_model_is_refused(tmp_path):
    """It is named which layer has nothing."""
    layers = lora_on(small_unet()).weights()
    name = list(layers)[5]
    path = tmp_path / "part.safetensors"
    write_lora(path, kohya_tensors({key: value for key, value in layers.items() if key != name}), "float32", {})
    with pytest.raises(NetworkError, match=re.escape(name)):
        start_from(path, small_unet(), linear=4, linear_alpha=2.0)


def test_a_lora_of_mixed_ranks_is_taken_with_its_ranks(tmp_path):
    """With dim_from_weights each layer has its own rank; without, the job's rank has to be that of all."""
    layers = dict(lora_on(small_unet()).weights())
    name, weights = next(iter(layers.items()))
    down, up = weights["lora_down.weight"][:2], weights["lora_up.weight"][:, :2]
    layers[name] = {**weights, "lora_down.weight": down, "lora_up.weight": up}
    path = tmp_path / "mixed.safetensors"
    write_lora(path, kohya_tensors(layers), "float32", {})
    found = start_from(path, small_unet(), dim_from_weights=True).weights()
    assert {key for key, layer in found.items() if len(layer["lora_down.weight"]) == 2} == {name}
    with pytest.raises(NetworkError, match="rank 2 and alpha 2 where the job has rank 4"):
        start_from(path, small_unet(), linear=4, linear_alpha=2.0)
