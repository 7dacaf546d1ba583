"""From the network section of a job to a network on a model."""

from __future__ import annotations

import torch
from torch import nn

from leco_plugin.config.layer_choice import Choice
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import NetworkError
from leco_plugin.network.dropout import Dropout
from leco_plugin.network.layers import Plan, Size, plan_layers
from leco_plugin.network.lora_file import LoraWeights
from leco_plugin.network.lycoris import PeftLycoris, read_lycoris, sizes_in
from leco_plugin.network.peft_lora import PeftLora, check_fit, read_weights

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def create_network(config: NetworkConfig, module: nn.Module, seed: int) -> PeftLora | PeftLycoris:
    """Attach the network that ``config`` asks for to ``module``, with the weights of its file where it names one.

    ``seed`` fixes the initial weights. Raises NetworkError where it cannot be made, or the file does not fit; then
    ``module`` is as it was.
    """
    size = Size(config.linear, config.linear_alpha)
    conv = None if config.conv is None else Size(config.conv, config.conv_alpha)
    choice = Choice(config.layers, config.only_if_contains, config.ignore_if_contains)
    plan = plan_layers(module, size, conv, choice)
    if config.type in ("loha", "lokr"):
        return _create_lycoris(config, module, size, plan, seed)
    weights = None
    if config.network_weights is not None:
        every = plan_layers(module, size, size)
        weights = read_weights(config.network_weights, module, every, dora=config.type == "dora")
        if config.dim_from_weights:
            plan = {name: Size(layer.down.shape[0], layer.alpha) for name, layer in weights.items()}
            size = _most_common(plan)
        check_fit(config.network_weights, weights, plan, module)
    return _create_lora(config, module, size, plan, seed, weights)


def _create_lora(
    config: NetworkConfig,
    module: nn.Module,
    size: Size,
    plan: Plan,
    seed: int,
    weights: dict[str, LoraWeights] | None,
) -> PeftLora:
    if config.type == "dora" and any(weight.dtype.itemsize == 1 for weight in module.parameters()):
        raise NetworkError("dora cannot measure weights in eight bits", fix="take fp8_base out, or set type to lora")
    network = PeftLora(
        module,
        rank=size.rank,
        alpha=size.alpha,
        seed=seed,
        plan=plan,
        dropout=Dropout(config.dropout, config.rank_dropout, config.module_dropout),
        dora=config.type == "dora",
        dtype=_DTYPES[config.dtype],
    )
    if weights is not None:
        network.load(weights)
    return network


def _create_lycoris(config: NetworkConfig, module: nn.Module, size: Size, plan: Plan, seed: int) -> PeftLycoris:
    path, layers = config.network_weights, None
    if path is not None:
        every = plan_layers(module, size, size)
        layers = read_lycoris(path, config.type, module, every if config.dim_from_weights else plan)
        if config.dim_from_weights:
            plan = sizes_in(layers, module)
            size = _most_common(plan)
    dropout = Dropout(rank=config.rank_dropout, module=config.module_dropout)
    dtype = _DTYPES[config.dtype]
    network = PeftLycoris(module, config.type, size=size, plan=plan, seed=seed, dropout=dropout, dtype=dtype)
    if path is not None and layers is not None:
        network.load(path, layers)
    return network


def _most_common(plan: Plan) -> Size:
    sizes = list(plan.values())
    return max(sizes, key=sizes.count)
