"""Files of other trainers, part by part: each part that can be read is, and what is not read is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from models import randn, small_unet
from torch import Tensor, nn

from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import NetworkError
from leco_plugin.network.blocks import original_names
from leco_plugin.network.create import create_network
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_file import write_tensors
from leco_plugin.network.lora_read import LoraFile

PATH = Path("some.safetensors")
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
QUERY, OUT, FEED = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn1.to_out.0", f"{BLOCK}.ff.net.2"
CONV, SHORTCUT = "down_blocks.0.resnets.0.conv1", "up_blocks.0.resnets.0.conv_shortcut"
GROUP_NORM, LAYER_NORM = "down_blocks.0.resnets.0.norm1", f"{BLOCK}.norm1"
Tensors = dict[str, Tensor]


def ask(unet: nn.Module) -> Tensor:
    with torch.no_grad():
        predicted: Tensor = unet(randn(2, 4, 8, 8), torch.tensor([500, 20]), randn(2, 5, 8, seed=1), return_dict=False)[
            0
        ]
    return predicted


def loaded(tensors: Tensors, unet: UNet2DConditionModel | None = None) -> tuple[UNet2DConditionModel, LoadedLora]:
    unet = unet or small_unet()
    return unet, LoadedLora(unet, LoraFile(PATH, tensors, {}))


def kohya(layer: str, **parts: Tensor) -> Tensors:
    """Keys as sd-scripts and LyCORIS write them; ``_`` in a part's name for a dot where it has one."""
    names = {"lora_down": "lora_down.weight", "lora_up": "lora_up.weight"}
    return {f"lora_unet_{layer.replace('.', '_')}.{names.get(part, part)}": t for part, t in parts.items()}


def changed(changes: dict[str, Tensor]) -> UNet2DConditionModel:
    """The small UNet with something added to its weights and biases."""
    unet = small_unet()
    for name, change in changes.items():
        unet.get_parameter(name).data += change
    return unet


def factors(out: int, inside: int, rank: int = 2) -> tuple[Tensor, Tensor]:
    return randn(rank, inside, seed=3), randn(out, rank, seed=4)


def test_a_bias_beside_the_factors_drops_nothing() -> None:
    """Up and down, a whole difference, biases of both and norms: all of them in one file act as merged by hand."""
    down, up = factors(8, 8)
    wide = randn(8, 8, 3, 3, seed=5) / 5
    tensors = {
        **kohya(OUT, lora_down=down, lora_up=up, alpha=torch.tensor(1.0), diff_b=randn(8, seed=6)),
        **kohya(CONV, diff=wide, diff_b=randn(8, seed=7)),
        **kohya(FEED, diff_b=randn(8, seed=10)),
        **kohya(GROUP_NORM, w_norm=randn(8, seed=8), b_norm=randn(8, seed=9)),
        **kohya(LAYER_NORM, w_norm=randn(8, seed=11)),
    }
    unet, lora = loaded(tensors)
    for strength in (1.0, -0.5):
        merged = {
            f"{OUT}.weight": up @ down / 2,
            f"{OUT}.bias": randn(8, seed=6),
            f"{CONV}.weight": wide,
            f"{CONV}.bias": randn(8, seed=7),
            f"{FEED}.bias": randn(8, seed=10),
            f"{GROUP_NORM}.weight": randn(8, seed=8),
            f"{GROUP_NORM}.bias": randn(8, seed=9),
            f"{LAYER_NORM}.weight": randn(8, seed=11),
        }
        expected = ask(changed({name: strength * change for name, change in merged.items()}))
        with lora.multiplier(strength):
            torch.testing.assert_close(ask(unet), expected, atol=2e-5, rtol=1e-4)
        with lora.multiplier([strength, 0.0]):
            torch.testing.assert_close(ask(unet)[0], expected[0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(ask(unet)[1], ask(small_unet())[1])
    assert (lora.layers, list(lora.left_out.sentences())) == (5, [])


def test_a_weight_that_is_set_is_set_at_every_strength_but_0() -> None:
    """As ComfyUI sets it, in place of what was there."""
    unet, lora = loaded(kohya(CONV, set_weight=randn(8, 8, 3, 3)))
    expected = small_unet()
    expected.get_parameter(f"{CONV}.weight").data.copy_(randn(8, 8, 3, 3))
    for strength in (1.0, 0.3):
        with lora.multiplier(strength):
            torch.testing.assert_close(ask(unet), ask(expected), atol=2e-5, rtol=1e-4)
    assert torch.equal(ask(unet), ask(small_unet()))


@pytest.mark.parametrize("part", ["strange", "strange.weight", "bias_of_mine"])
def test_an_unknown_part_is_said_and_drops_nothing(part: str) -> None:
    """The rest of its layer does what it does without it."""
    down, up = factors(8, 8)
    plain = kohya(QUERY, lora_down=down, lora_up=up, alpha=torch.tensor(2.0))
    unet, _ = loaded(plain)
    key = f"lora_unet_{QUERY.replace('.', '_')}.{part}"
    other, lora = loaded({**plain, key: randn(3)})
    (said,) = lora.left_out.sentences()
    assert said == f"not read: 1 parts: {key}"
    for model in (unet, other):
        assert len(list(model.get_submodule(QUERY)._forward_hooks)) == 1
    with lora.multiplier(1.0):
        torch.testing.assert_close(ask(other), ask(changed({f"{QUERY}.weight": up @ down})), atol=2e-5, rtol=1e-4)


FOREIGN = {
    "GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    "OFT or BOFT": ("oft_blocks", "rescale"),
    "BOFT": ("boft_R", "boft_s"),
    "IA3": ("on_input", "weight"),
    "AdaLoRA": ("lora_A", "lora_B", "lora_E", "ranknum"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_kinds_that_are_not_read_are_named(kind: str) -> None:
    """Alone they are refused by their kind, not as a file for another model; beside a LoRA they are said."""
    foreign = {f"lora_unet_{FEED.replace('.', '_')}.{part}": randn(2, 2) for part in FOREIGN[kind]}
    with pytest.raises(NetworkError, match=f"is {kind} .{len(foreign)} tensors., which is not read here"):
        loaded(foreign)
    down, up = factors(8, 8)
    _, lora = loaded({**kohya(QUERY, lora_down=down, lora_up=up, alpha=torch.tensor(2.0)), **foreign})
    (said,) = lora.left_out.sentences()
    assert said.startswith(f"not read: {len(foreign)} parts of {kind}: ")


def test_lycoris_dora_is_read_by_either_side() -> None:
    """The new weight has the lengths that the file gives, of its outputs or of its inputs; measured, not trained."""
    down, up = factors(8, 8)
    base = small_unet().get_parameter(f"{FEED}.weight").data
    width = base.shape[1]
    down, up = factors(8, width)
    new = base + up @ down
    for shape, side in (((8, 1), 1), ((1, width), 0)):
        length = 1 + randn(*shape, seed=8).abs()
        tensors = kohya(FEED, lora_down=down, lora_up=up, alpha=torch.tensor(2.0), dora_scale=length)
        unet, lora = loaded(tensors)
        expected = length * new / new.norm(dim=side, keepdim=True) - base
        with lora.multiplier(1.0):
            torch.testing.assert_close(ask(unet), ask(changed({f"{FEED}.weight": expected})), atol=2e-5, rtol=1e-4)


def test_a_convolution_in_three_parts_acts_as_one() -> None:
    """lora_mid, as LyCORIS has it."""
    down, up, middle = randn(2, 8, 1, 1), randn(8, 2, 1, 1, seed=1), randn(2, 2, 3, 3, seed=2)
    unet, lora = loaded(
        {
            **kohya(CONV, lora_down=down, lora_up=up, alpha=torch.tensor(1.0)),
            f"lora_unet_{CONV.replace('.', '_')}.lora_mid.weight": middle,
        }
    )
    change = torch.einsum("or,rshw,si->oihw", up.flatten(1), middle, down.flatten(1)) / 2
    with lora.multiplier(1.0):
        torch.testing.assert_close(ask(unet), ask(changed({f"{CONV}.weight": change})), atol=2e-5, rtol=1e-4)


def flat(prefix: str) -> Callable[[str], str]:
    return lambda path: prefix + path.replace(".", "_")


PREFIXES: dict[str, Callable[[str], str]] = {
    **{f"{p}*": flat(p) for p in ("lora_unet_", "lora_unet__", "lycoris_", "lora_transformer_", "lora_prior_unet_")},
    **{
        f"{p}.*": (lambda path, p=p: f"{p}.{path}")  # type: ignore[misc]
        for p in ("unet", "diffusion_model", "transformer", "base_model.model", "unet.base_model.model")
    },
    "*": str,
    "model.diffusion_model.*": lambda path: f"model.diffusion_model.{path}",
}
ENDINGS = [
    ("lora_down.weight", "lora_up.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A.my-adapter.weight", "lora_B.my-adapter.weight"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    ("lora_A", "lora_B"),
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_finds_the_layer(prefix: str) -> None:
    """With diffusers' names and the checkpoint's, whatever the two matrices are called."""
    down, up = factors(8, 8)
    originals = original_names([name for name, _ in small_unet().named_modules()])
    for name in (OUT, originals[OUT]):
        for first, second in ENDINGS:
            path = PREFIXES[prefix](name)
            _, lora = loaded({f"{path}.{first}": down, f"{path}.{second}": up})
            assert (lora.layers, lora.left_out.keys, lora.left_out.untold) == (1, (), 1), (path, first)


@pytest.mark.parametrize(
    "prefix",
    [
        *("lora_te_", "lora_te1_", "lora_te2_", "lora_prior_te_", "lycoris_te1_"),
        *("text_encoder.", "text_encoder_2.", "text_encoders.", "te1.", "base_model.model.text_model.", "clip_l."),
    ],
)
def test_text_encoder_keys_are_set_aside(prefix: str) -> None:
    """With their number; what is for the UNet acts alone."""
    down, up = factors(8, 8)
    text = "text_model_encoder_layers_0_mlp_fc1" if prefix.endswith("_") else "text_model.encoder.layers.0.mlp.fc1"
    plain = kohya(OUT, lora_down=down, lora_up=up, alpha=torch.tensor(2.0))
    _, lora = loaded({**plain, f"{prefix}{text}.lora_down.weight": down, f"{prefix}{text}.lora_up.weight": up})
    (said,) = lora.left_out.sentences()
    assert said.startswith("left out: 2 keys for a text encoder")


BROKEN: dict[str, tuple[Tensors, str]] = {
    "ranks that differ": (kohya(QUERY, lora_down=randn(2, 8), lora_up=randn(8, 3)), "lora_up.weight 8 x 3"),
    "rank 0": (kohya(QUERY, lora_down=randn(0, 8), lora_up=randn(8, 0)), "is empty"),
    "two alphas": (kohya(QUERY, lora_down=randn(2, 8), lora_up=randn(8, 2), alpha=randn(2)), "2 numbers, not one"),
    "no alpha": (kohya(QUERY, lora_down=randn(2, 8), lora_up=randn(8, 2), alpha=randn(0)), "alpha is empty"),
    "one dimension": (kohya(QUERY, lora_down=randn(8), lora_up=randn(8)), "do not fit each other"),
    "scalars": (kohya(QUERY, lora_down=torch.tensor(1.0), lora_up=torch.tensor(1.0)), "do not fit each other"),
    "seven dimensions": (kohya(QUERY, lora_down=randn(2, 8), lora_up=randn(8, 1, 1, 1, 2, 1, 1)), "do not fit"),
    "hada": (
        kohya(QUERY, hada_w1_a=randn(8, 2), hada_w1_b=randn(2, 8), hada_w2_a=randn(8, 2), hada_w2_b=randn(2, 9)),
        "do not fit each other",
    ),
    "lokr": (kohya(QUERY, lokr_w1=randn(2, 2), lokr_w2_a=randn(4, 2), lokr_w2_b=randn(3, 4)), "do not fit each other"),
    "twice": (
        {
            **kohya(QUERY, lora_down=randn(2, 8), lora_up=randn(8, 2)),
            **kohya("input_blocks.1.1.transformer_blocks.0.attn1.to_q", lora_down=randn(2, 8), lora_up=randn(8, 2)),
        },
        "twice",
    ),
    "immense": (kohya(QUERY, lora_down=randn(1, 2**15), lora_up=randn(2**15, 1)), "more numbers than any layer"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_called_broken(what: str, tmp_path: Path) -> None:
    """With the layer, and never as made for another model: neither in measuring nor as the start of a training."""
    tensors, said = BROKEN[what]
    with pytest.raises(NetworkError, match=re.escape(said)) as refused:
        loaded(tensors)
    path = tmp_path / "broken.safetensors"
    write_tensors(path, tensors, {})
    with pytest.raises(NetworkError, match=re.escape(said)):
        create_network(NetworkConfig(network_weights=path, dim_from_weights=True), small_unet(), seed=0)
    assert str(refused.value).startswith("some.safetensors is broken: ")
    assert "model" not in str(refused.value)


def test_blocks_that_differ_in_their_layers_are_numbered_one_after_the_other() -> None:
    """By hand, for a UNet of one resnet in the first block and two in the second."""
    originals = original_names([name for name, _ in small_unet(layers_per_block=(1, 2)).named_modules()])
    assert originals["down_blocks.0.downsamplers.0.conv"] == "input_blocks.2.0.op"
    assert originals["down_blocks.1.resnets.1.conv1"] == "input_blocks.4.0.in_layers.2"
    assert originals["up_blocks.0.resnets.2.conv1"] == "output_blocks.2.0.in_layers.2"
    assert originals["up_blocks.1.resnets.0.conv1"] == "output_blocks.3.0.in_layers.2"
