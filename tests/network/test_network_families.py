"""LoRA files of every family in diffusers, and what the options of a network do."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from models import randn, randomize, tiny_job
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import SECOND_WIDTH, WIDTHS, build_pipeline, unet_config
from torch import Tensor, nn

from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import NetworkError
from leco_plugin.families.offline import configs
from leco_plugin.network.blocks import original_names
from leco_plugin.network.create import create_network
from leco_plugin.network.dropout import Dropout
from leco_plugin.network.layers import convolution_layers, transformer_layers
from leco_plugin.network.metadata import run_metadata

FAMILIES = ["sd1", "sd2", "sdxl"]
STRENGTHS = [1.0, 0.0, -1.5, 0.25]


def make_unet(family: str, **changes: Any) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**unet_config(family) | changes)
    return unet.requires_grad_(False).eval()


def ask(unet: nn.Module, family: str, rows: slice = slice(None), gradient: bool = False) -> Tensor:
    """Predictions for four fixed rows, or for some of them."""
    latents, text = randn(4, 4, 8, 8)[rows], randn(4, 5, WIDTHS[family], seed=1)[rows]
    added: dict[str, Any] = {}
    if family == "sdxl":
        pooled, sizes = randn(4, SECOND_WIDTH, seed=2)[rows], torch.full((4, 6), 64.0)[rows]
        added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    with torch.set_grad_enabled(gradient):
        predicted: Tensor = unet(latents, torch.tensor([900, 500, 100, 10])[rows], text, return_dict=False, **added)[0]
    return predicted


def network_on(unet: nn.Module, std: float = 0.3, **config: Any) -> Any:
    network = create_network(NetworkConfig(**{"linear": 4, "linear_alpha": 2.0, **config}), unet, seed=0)
    randomize(network.parameters(), std=std)
    return network


@pytest.mark.parametrize(
    ("family", "conv", "layers"),
    [*((family, conv, 2) for family in FAMILIES for conv in ({}, {"conv": 2, "conv_alpha": 3.0})), ("sdxl", {}, 1)],
)
def test_diffusers_loads_the_file_of_every_family(family: str, conv: dict[str, Any], layers: int, tmp_path: Path):
    """At strengths -1, 0.5 and 1 the loaded LoRA predicts what ours predicts; alpha is not the rank."""
    pipeline = build_pipeline(family, tmp_path)
    unet = UNet2DConditionModel(**unet_config(family) | {"layers_per_block": layers}).requires_grad_(False).eval()
    if layers == 2:
        unet.load_state_dict(pipeline.unet.state_dict())
    else:
        pipeline.unet = copy.deepcopy(unet)
    network = network_on(unet, **conv)
    network.save(tmp_path / "lora.safetensors", "float32", {})
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors", adapter_name="lora")

    at_one = ask(unet, family)
    for strength in (-1.0, 0.5, 1.0):
        pipeline.set_adapters("lora", strength)
        with network.multiplier(strength):
            ours = ask(unet, family)
        torch.testing.assert_close(ask(pipeline.unet, family), ours, rtol=1e-4, atol=1e-5)
        assert strength == 1.0 or (ours - at_one).abs().max() > 1e-3


def test_keys_of_sdxl_are_those_of_sd_scripts(tmp_path: Path):
    """Blocks have their original names, in the transformer blocks and in the convolutions."""
    network_on(make_unet("sdxl"), conv=2).save(tmp_path / "lora.safetensors", "float32", {})
    keys = {key.split(".")[0] for key in load_file(tmp_path / "lora.safetensors")}

    assert keys >= {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_input_blocks_4_1_proj_in",
        "lora_unet_middle_block_1_transformer_blocks_1_ff_net_0_proj",
        "lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_out_0",
        "lora_unet_input_blocks_1_0_in_layers_2",
        "lora_unet_input_blocks_1_0_emb_layers_1",
        "lora_unet_input_blocks_3_0_op",
        "lora_unet_middle_block_0_out_layers_3",
        "lora_unet_output_blocks_2_2_conv",
        "lora_unet_output_blocks_8_0_skip_connection",
    }
    assert not any("down_blocks" in key or "resnets" in key for key in keys)


def in_original_names(unet: nn.Module) -> dict[str, Tensor]:
    """All weights under the names of an original checkpoint."""
    originals = original_names([name for name, _ in unet.named_modules()])
    renamed = {}
    for key, tensor in unet.state_dict().items():
        name, kind = key.rsplit(".", 1)
        renamed[f"model.diffusion_model.{originals[name]}.{kind}"] = tensor
    return renamed


@pytest.mark.parametrize(("family", "layers"), [*((family, 2) for family in FAMILIES), ("sdxl", 1), ("sdxl", 3)])
def test_original_names_are_those_that_diffusers_converts(family: str, layers: int):
    """diffusers' converter takes every weight under its original name back, however many layers a block has."""
    unet = make_unet(family, layers_per_block=layers)
    renamed = in_original_names(unet)
    back = convert_ldm_unet_checkpoint(renamed, {**unet_config(family), "layers_per_block": layers})

    assert len(renamed) == len(unet.state_dict())
    assert back.keys() == unet.state_dict().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in unet.state_dict().items())


@pytest.mark.parametrize(("family", "linear", "conv"), [("sd1", 192, 86), ("sd2", 192, 86), ("sdxl", 722, 66)])
def test_full_size_models_have_the_layers_that_sd_scripts_counts(family: Any, linear: int, conv: int):
    """So many modules; and diffusers' converter leads all their original names back to the layers."""
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(configs(family)["unet"])
    renamed = in_original_names(unet)
    back = convert_ldm_unet_checkpoint(renamed, configs(family)["unet"])

    assert (len(transformer_layers(unet)), len(convolution_layers(unet))) == (linear, conv)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in unet.state_dict().items()}


def test_a_strength_per_row_holds_for_convolutions_and_timesteps():
    """One batch of four strengths equals four calls, in convolutions and where the timestep comes in, too."""
    unet = make_unet("sd1")
    network = network_on(unet, conv=2, conv_alpha=3.0)
    assert any("time_emb_proj" in name for name in network.weights())
    with network.multiplier(STRENGTHS):
        together = ask(unet, "sd1")
    for row, strength in enumerate(STRENGTHS):
        with network.multiplier(strength):
            alone = ask(unet, "sd1", slice(row, row + 1))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "wanted", "unwanted"),
    [
        ("all", r"attn1|attn2|ff|proj_in|conv1|time_emb_proj|conv_shortcut|downsamplers|upsamplers", "nothing"),
        ("full", r"attn1|attn2|ff|proj_in|conv1", "nothing"),
        ("noxattn", r"attn1|ff|proj_in|conv1", "attn2"),
        ("attention", r"attn1|attn2", "ff|proj_|conv"),
        ("xattn", "attn2", "attn1|ff|proj_|conv"),
        ("selfattn", "attn1", "attn2|ff|proj_|conv"),
    ],
)
def test_a_choice_of_layers_takes_these_and_no_others(layers: str, wanted: str, unwanted: str):
    """The names of LECO and Concept Sliders select what they say, and every layer of that kind."""
    unet = make_unet("sd1")
    possible = [*transformer_layers(unet), *convolution_layers(unet)]
    conv = {"conv": 2} if layers in ("all", "full", "noxattn") else {}
    taken = set(network_on(unet, layers=layers, **conv).weights())

    for part in wanted.split("|"):
        assert any(part in name for name in taken), part
    assert taken == {
        name for name in possible if re.search(wanted, name) or (conv and not re.search(unwanted, name))
    } - {name for name in possible if re.search(unwanted, name)}


def test_layers_are_taken_and_left_by_parts_of_their_names():
    """only_if_contains and ignore_if_contains look at the names; nothing left is an error."""
    taken = set(network_on(make_unet("sd1"), only_if_contains=["mid_block"], ignore_if_contains=["ff."]).weights())

    assert taken
    assert all("mid_block" in name and "ff." not in name for name in taken)
    with pytest.raises(NetworkError, match="no layer"):
        network_on(make_unet("sd1"), only_if_contains=["no such part"])


def test_convolutions_have_a_size_of_their_own(tmp_path: Path):
    """conv and conv_alpha go to 3x3 convolutions, linear and linear_alpha to all else; the metadata says so."""
    network = network_on(make_unet("sd1"), conv=2, conv_alpha=3.0)
    for name, weights in network.weights().items():
        wide = weights["lora_down.weight"].ndim == 4 and weights["lora_down.weight"].shape[-1] == 3
        assert (weights["lora_down.weight"].shape[0], weights["alpha"]) == ((2, 3.0) if wide else (4, 2.0)), name
    network.save(tmp_path / "lora.safetensors", "float32", {})
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "3"}


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        *(("lora", option) for option in ("dropout", "rank_dropout", "module_dropout")),
        *((kind, option) for kind in ("loha", "lokr") for option in ("rank_dropout", "module_dropout")),
    ],
)
def test_dropout_is_in_the_students_pass_alone(kind: str, option: str):
    """With gradients recorded predictions vary from call to call; without, in training mode too, they do not."""
    unet = make_unet("sd1")
    network = network_on(unet, type=kind, **{option: 0.5}, conv=2)
    plain_unet = make_unet("sd1")
    plain = network_on(plain_unet, type=kind, conv=2)
    with network.multiplier(1.0), plain.multiplier(1.0):
        expected = ask(plain_unet, "sd1")
        for training in (False, True):
            unet.train(training)
            assert torch.equal(ask(unet, "sd1"), expected)
            torch.manual_seed(1)
            first, second = ask(unet, "sd1", gradient=True), ask(unet, "sd1", gradient=True)
            assert not torch.equal(first, second)
    with network.multiplier(0.0):
        assert torch.equal(ask(unet, "sd1", gradient=True).detach(), ask(make_unet("sd1"), "sd1"))


@pytest.mark.parametrize("shape", [(64, 40), (16, 10, 40), (16, 40, 5, 5)])
def test_what_dropout_leaves_is_scaled_up(shape: tuple[int, ...]):
    """Rank dropout takes whole ranks of a row and keeps the mean; so does dropout, number by number."""
    torch.manual_seed(0)
    ones = torch.ones(shape)
    by_rank = Dropout(rank=0.25).apply(ones)
    rank_last = by_rank.movedim(1, -1) if by_rank.ndim == 4 else by_rank
    flat = rank_last.reshape(shape[0], -1, 40)

    assert torch.equal(flat, flat[:, :1].expand_as(flat))
    for dropped in (by_rank, Dropout(neuron=0.25).apply(ones)):
        assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
        assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    modules = [Dropout(module=0.25).apply(ones).mean().item() for _ in range(400)]
    assert set(modules) == {0.0, 1.0}
    assert sum(modules) / 400 == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_training_goes_on_from_a_file(kind: str, family: str, tmp_path: Path):
    """A network that starts from network_weights predicts what the one that was saved predicts."""
    unet, again = make_unet(family), make_unet(family)
    network = network_on(unet, std=0.2, type=kind, conv=2)
    network.save(tmp_path / "lora.safetensors", "float32", {})
    config = NetworkConfig(type=kind, linear=4, linear_alpha=2.0, conv=2, network_weights=tmp_path / "lora.safetensors")
    loaded = create_network(config, again, seed=9)

    with network.multiplier(1.0), loaded.multiplier(1.0):
        torch.testing.assert_close(ask(again, family), ask(unet, family), rtol=1e-5, atol=1e-6)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_dim_from_weights_takes_ranks_alphas_and_layers_from_the_file(tmp_path: Path):
    """Whatever the job says of them; the metadata of what is saved next is right, too."""
    unet, again = make_unet("sdxl"), make_unet("sdxl")
    network = network_on(unet, linear=6, linear_alpha=3.0, conv=2, layers="noxattn")
    network.save(tmp_path / "lora.safetensors", "float32", {})
    config = NetworkConfig(linear=1, network_weights=tmp_path / "lora.safetensors", dim_from_weights=True)
    loaded = create_network(config, again, seed=9)
    assert loaded.sizes == "rank 6, alpha 3; rank 2, alpha 1"
    loaded.save(tmp_path / "again.safetensors", "float32", {})

    with network.multiplier(-0.5), loaded.multiplier(-0.5):
        assert torch.equal(ask(again, "sdxl"), ask(unet, "sdxl"))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "lora.safetensors").read_bytes()
    with safe_open(tmp_path / "again.safetensors", framework="pt") as file:
        assert (file.metadata()["ss_network_dim"], file.metadata()["ss_network_alpha"]) == ("6", "3")


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_dim_from_weights_goes_for_lycoris_files_too(kind: str, tmp_path: Path):
    """Also where a layer of LoKr is small enough to be whole and so has no rank."""
    unet, again = make_unet("sd1"), make_unet("sd1")
    network = network_on(unet, type=kind, linear=3, linear_alpha=6.0, conv=2, layers="noxattn")
    network.save(tmp_path / "a.safetensors", "float32", {})
    config = NetworkConfig(type=kind, network_weights=tmp_path / "a.safetensors", dim_from_weights=True)
    loaded = create_network(config, again, seed=9)
    for strength in (1.0, -0.5):
        with network.multiplier(strength), loaded.multiplier(strength):
            assert torch.equal(ask(again, "sd1"), ask(unet, "sd1"))
    loaded.save(tmp_path / "b.safetensors", "float32", {})
    old, new = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)
    if kind == "loha":
        assert loaded.sizes == "rank 3, alpha 6; rank 2, alpha 1"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"linear": 8}, "rank 4 and alpha 2 where the job has rank 8"),
        ({"linear_alpha": 1.0}, "alpha 2 where the job has rank 4 and alpha 1"),
        ({"layers": "xattn"}, "where this network has none"),
        ({"conv": 2}, "has nothing for the layer"),
        ({"type": "loha"}, "no loha file"),
    ],
)
def test_a_file_of_another_network_is_refused_and_leaves_no_trace(config: Any, said: str, tmp_path: Path):
    """By what differs; the model is as it was."""
    network_on(make_unet("sd1")).save(tmp_path / "lora.safetensors", "float32", {})
    unet = make_unet("sd1")
    before = [name for name, _ in unet.named_parameters()]
    settings = {"linear": 4, "linear_alpha": 2.0, "network_weights": tmp_path / "lora.safetensors", **config}

    with pytest.raises(NetworkError, match=said):
        create_network(NetworkConfig(**settings), unet, seed=0)
    assert [name for name, _ in unet.named_parameters()] == before


def merged(kind: str, tensors: dict[str, Tensor], base: Tensor, strength: float) -> Tensor:
    """The base weight with a layer of a file put in as LyCORIS' programs put it in."""

    def product(name: str) -> Tensor:
        return tensors[name] if name in tensors else tensors[f"{name}_a"] @ tensors[f"{name}_b"]

    if kind == "loha":
        delta = product("hada_w1") * product("hada_w2")
        return base + strength * delta.reshape(base.shape) * tensors["alpha"] / len(tensors["hada_w1_b"])
    left, right = product("lokr_w1"), product("lokr_w2")
    if right.ndim == 4:
        left = left[:, :, None, None]
    ranks = [len(tensors[name]) for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors]
    scale = tensors["alpha"] / ranks[0] if ranks else 1.0
    return base + strength * torch.kron(left, right).reshape(base.shape) * scale


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_lycoris_files_mean_what_we_trained(kind: str, tmp_path: Path):
    """Merged into the weights by the format's own formula, a file gives our predictions at every strength."""
    unet, plain = make_unet("sd1"), make_unet("sd1")
    network = network_on(unet, std=0.2, type=kind, linear=2, conv=2, conv_alpha=3.0)
    network.save(tmp_path / "net.safetensors", "float32", {})
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(tmp_path / "net.safetensors").items():
        layers.setdefault(key.split(".")[0], {})[key.partition(".")[2]] = tensor
    original = {name: weight.clone() for name, weight in plain.state_dict().items()}
    names = {f"lora_unet_{name.replace('.', '_')}": name for name, _ in plain.named_modules()}

    for strength in (-1.0, 0.0, 0.5, 1.0):
        for key, tensors in layers.items():
            weight = plain.get_submodule(names[key]).weight
            weight.data = merged(kind, tensors, original[f"{names[key]}.weight"], strength)
        with network.multiplier(strength):
            ours = ask(unet, "sd1")
        torch.testing.assert_close(ours, ask(plain, "sd1"), rtol=1e-4, atol=2e-5)
    assert len(layers) == len(transformer_layers(plain)) + len(convolution_layers(plain))


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_every_kind_starts_as_the_base_model_and_learns(kind: str):
    """A new network changes nothing, at strength 0 nothing ever, and a loss gives all its weights a gradient."""
    unet = make_unet("sd1")
    before = ask(unet, "sd1")
    network = create_network(NetworkConfig(type=kind, linear=2, conv=2), unet, seed=0)
    with network.multiplier(1.0):
        torch.testing.assert_close(ask(unet, "sd1"), before, rtol=1e-5, atol=1e-5)
    randomize(network.parameters(), std=0.2)
    with network.multiplier(0.0):
        assert torch.equal(ask(unet, "sd1"), before)
    with network.multiplier(1.0):
        loss = ask(unet, "sd1", gradient=True).square().sum()
        gradients = torch.autograd.grad(loss, network.parameters())
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert network.takes_rows == (kind == "lora")


def test_a_network_of_one_strength_refuses_several():
    """LoHa and LoKr take the same number for all rows, in a list too, and restore what was set."""
    unet = make_unet("sd1")
    network = network_on(unet, type="loha")
    with network.multiplier(0.5):
        half = ask(unet, "sd1")
        with network.multiplier([0.5] * 4):
            assert torch.equal(ask(unet, "sd1"), half)
        with network.multiplier(1.0):
            assert not torch.equal(ask(unet, "sd1"), half)
        assert torch.equal(ask(unet, "sd1"), half)
    with pytest.raises(ValueError, match="one strength"), network.multiplier([1.0, 0.0]):
        pass


@pytest.mark.parametrize(
    "config",
    [
        {"type": "loha", "dropout": 0.1},
        {"layers": "xattn", "conv": 4},
        {"dim_from_weights": True},
        {"layers": "unet"},
        {"dropout": 1.0},
    ],
)
def test_options_that_mean_nothing_together_are_refused(config: dict[str, Any]):
    """Before anything is loaded."""
    with pytest.raises(ValidationError):
        NetworkConfig(**config)


def test_weights_may_be_held_in_low_precision():
    """dtype bf16 holds weights and gradients in bfloat16, and strengths per row work still."""
    unet = make_unet("sd1").to(torch.bfloat16)
    network = network_on(unet, dtype="bf16", conv=2)
    latents, text = randn(4, 4, 8, 8).bfloat16(), randn(4, 5, WIDTHS["sd1"]).bfloat16()
    with network.multiplier(STRENGTHS):
        loss = unet(latents, torch.tensor(5), text).sample.square().sum()
        gradients = torch.autograd.grad(loss, network.parameters())
    assert {tensor.dtype for tensor in (*network.parameters(), *gradients)} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("family", "prediction", "version", "v2", "architecture"),
    [
        ("sd1", "epsilon", "sd_v1", "False", "stable-diffusion-v1/lora"),
        ("sd2", "epsilon", "sd_v2", "True", "stable-diffusion-v2-512/lora"),
        ("sd2", "v_prediction", "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora"),
        ("sdxl", "epsilon", "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
        ("sdxl", "v_prediction", "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_metadata_tells_the_family(
    family: str, prediction: str, version: str, v2: str, architecture: str, tmp_path: Path
):
    """A1111 shows a file for the models that ss_base_model_version and ss_v2 name."""
    metadata = run_metadata(tiny_job(tmp_path), family=family, prediction_type=prediction, seed=1, step=2)

    assert metadata["ss_base_model_version"] == version
    assert metadata["ss_v2"] == v2
    assert metadata["modelspec.architecture"] == architecture
    assert metadata["modelspec.prediction_type"] == ("v" if prediction == "v_prediction" else prediction)
