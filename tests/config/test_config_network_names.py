"""Names of networks in other trainers, and what becomes of them."""

from __future__ import annotations

import pytest

from leco_plugin.config.network_names import network_options
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("module", "arguments", "options"),
    [
        ("networks.lora", {}, {"type": "lora"}),
        (
            "networks.lora",
            {"conv_dim": "4", "conv_alpha": "1", "rank_dropout": "0.1"},
            {"type": "lora", "conv": 4, "conv_alpha": 1.0, "rank_dropout": 0.1},
        ),
        ("lycoris.kohya", {}, {"type": "lora"}),
        ("lycoris.kohya", {"algo": "locon", "conv_dim": "8"}, {"type": "lora", "conv": 8}),
        ("lycoris.kohya", {"algo": "loha"}, {"type": "loha"}),
        ("lycoris.kohya", {"algo": "lokr"}, {"type": "lokr"}),
        ("lycoris.kohya", {"algo": "lora", "dora_wd": "True"}, {"type": "dora"}),
        ("lokr", {}, {"type": "lokr"}),
    ],
)
def test_known_names_map_to_ours(module: str, arguments: dict[str, str], options: dict[str, object]):
    """Module and arguments become options that the schema takes."""
    assert network_options(module, arguments) == options
    assert NetworkConfig.model_validate(options).type == options["type"]


@pytest.mark.parametrize(
    ("module", "arguments", "message", "fix"),
    [
        ("networks.dylora", {}, "networks.dylora", "networks.lora"),
        ("networks.lora", {"conv_dims": "4"}, "conv_dims", "conv_dim"),
        ("networks.lora", {"algo": "loha"}, "algo", "conv_alpha"),
        ("networks.lora", {"conv_dim": "four"}, "must be a number", "conv_dim=4"),
        ("lycoris.kohya", {"algo": "boft"}, "boft", "lokr"),
        ("lycoris.kohya", {"algo": "lokr", "dora_wd": "true"}, "dora_wd", "take it out"),
    ],
)
def test_others_are_refused_with_what_there_is(module: str, arguments: dict[str, str], message: str, fix: str):
    """One sentence, and a way out."""
    with pytest.raises(ConfigError, match=message) as caught:
        network_options(module, arguments)
    assert fix in caught.value.problems[0].fix
