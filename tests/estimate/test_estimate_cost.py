"""The estimate agrees with what diffusers, PEFT and torch count and keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from small_models import unet_config
from torch.utils.flop_counter import FlopCounterMode

import leco_plugin.families
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.engine import step
from leco_plugin.estimate import rows
from leco_plugin.estimate.memory import Adapter, kept_bytes
from leco_plugin.estimate.unet import unet_model
from leco_plugin.network.create import create_network
from leco_plugin.tiny import MODEL_FOLDER

CONFIGS = Path(leco_plugin.families.__path__[0]) / "configs"
FAMILIES = ("sd1", "sd2", "sdxl")
TOKENS = 77


def config_of(name: str) -> dict:
    """The UNet of `builtin:tiny`, of a small model, or of a full-size family."""
    if name == "tiny":
        return json.loads((MODEL_FOLDER / "unet" / "config.json").read_text("utf-8"))
    if name.startswith("small "):
        return unet_config(name.removeprefix("small "))
    return json.loads((CONFIGS / f"{name}.json").read_text("utf-8"))["unet"]


def call(unet: UNet2DConditionModel, config: dict, height: int, width: int, batch: int = 1) -> torch.Tensor:
    added = {}
    if config.get("addition_embed_type"):
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        added = {"text_embeds": torch.ones(batch, pooled), "time_ids": torch.ones(batch, 6)}
    text = torch.ones(batch, TOKENS, config["cross_attention_dim"])
    latents = torch.ones(batch, 4, height, width)
    return unet(latents, torch.ones(batch), text, added_cond_kwargs=added, return_dict=False)[0]


@pytest.mark.parametrize("name", ["tiny", *(f"small {family}" for family in FAMILIES), *FAMILIES])
def test_parameters_and_flops_are_those_of_the_model(name):
    """As torch counts them, on a rectangle whose sides are halved unevenly."""
    config, height, width = config_of(name), 24, 40
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        unet = UNet2DConditionModel(**config)
        call(unet, config, height, width)
    model = unet_model(config, height, width, TOKENS)
    assert model is not None
    assert model.parameters == sum(parameter.numel() for parameter in unet.parameters())
    assert model.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("options", [{}, {"conv": 2, "conv_alpha": 1.0}, {"layers": "xattn"}], ids=str)
def test_the_network_has_as_many_weights_as_peft_makes(kind, options):
    """On the layers that the job chooses."""
    config, network = config_of("small sdxl"), NetworkConfig(type=kind, linear=3, **options)
    model = unet_model(config, 8, 8, TOKENS)
    estimated = sum(Adapter(network, 3).weights_on(layer) for layer in model.layers)
    made = create_network(network, UNet2DConditionModel(**config), seed=0)
    assert estimated == sum(parameter.numel() for parameter in made.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("options", [{}, {"layers": "xattn"}, {"conv": 4}], ids=str)
def test_the_student_keeps_what_is_estimated(options, checkpointing):
    """Bytes of all tensors that wait for the backward pass of two rows, within a twentieth."""
    config, network = config_of("tiny"), NetworkConfig(linear=4, **options)
    unet = UNet2DConditionModel(**config).requires_grad_(False)
    create_network(network, unet, seed=0)
    if checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    weights = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call(unet, config, 32, 48, batch=2)
    found = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    model = unet_model(config, 32, 48, TOKENS)
    kept_at_all, _ = kept_bytes(model, Adapter(network, 4), 2, 4, checkpointing=checkpointing)
    assert kept_at_all == pytest.approx(found, rel=0.05)


def test_the_base_model_is_measured_as_often_as_the_step_does():
    """The step cannot be asked without torch."""
    assert rows.MEASURE_EVERY == step.MEASURE_EVERY
