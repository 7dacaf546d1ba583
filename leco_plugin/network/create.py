"""From the network section of a job to a network on a model."""

from __future__ import annotations

import torch
from torch import nn

from leco_plugin.config.layer_choice import Choice
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.network.dropout import Dropout
from leco_plugin.network.flow_files import check_config, family_of
from leco_plugin.network.layers import Plan, Size, plan_layers
from leco_plugin.network.lycoris import PeftLycoris
from leco_plugin.network.peft_lora import PeftLora
from leco_plugin.network.start import read_start

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def create_network(config: NetworkConfig, module: nn.Module, seed: int) -> PeftLora | PeftLycoris:
    """Attach the network that ``config`` asks for to ``module``, with the weights of its file where it names one.

    ``seed`` fixes the initial weights. Raises NetworkError where it cannot be made, or the file does not fit; then
    ``module`` is as it was.
    """
    family = family_of(module)
    if family is not None:
        check_config(config, family)
    size = Size(config.linear, config.linear_alpha)
    conv = None if config.conv is None else Size(config.conv, config.conv_alpha)
    choice = Choice(config.layers, config.only_if_contains, config.ignore_if_contains)
    plan, start = plan_layers(module, size, conv, choice), None
    if config.network_weights is not None:
        start = read_start(config.network_weights, module, config.type, plan_layers(module, size, size))
        if config.dim_from_weights:
            plan = dict(start.sizes)
            size = _most_common(plan)
        start.check(plan)
    dropout = Dropout(config.dropout, config.rank_dropout, config.module_dropout)
    dtype = _DTYPES[config.dtype]
    network: PeftLora | PeftLycoris
    if config.type == "lora":
        network = PeftLora(module, rank=size.rank, alpha=size.alpha, seed=seed, plan=plan, dropout=dropout, dtype=dtype)
    else:
        network = PeftLycoris(module, config.type, size=size, plan=plan, seed=seed, dropout=dropout, dtype=dtype)
    if start is not None:
        network.load(start)
    return network


def _most_common(plan: Plan) -> Size:
    sizes = list(plan.values())
    return max(sizes, key=sizes.count)
