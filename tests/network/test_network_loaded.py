"""LoRA files of any trainer, on the model at any strength: the same weights do the same in every key format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from models import SmallDenoiser, randn, randomize, small_unet
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import unet_config
from torch import Tensor
from torch.nn import functional

from leco_plugin.config.schema import NetworkConfig
from leco_plugin.contracts import Network
from leco_plugin.errors import NetworkError
from leco_plugin.network.adapter import adapter_in
from leco_plugin.network.create import create_network
from leco_plugin.network.differences import weight_changes
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_keys import read_key
from leco_plugin.network.lora_read import LoraFile
from leco_plugin.network.peft_lora import ADAPTER, PeftLora

TABLE = ["a", "b"]
PATH = Path("some.safetensors")
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def ask(unet: UNet2DConditionModel, network: Network, strength: float | list[float]) -> Tensor:
    denoiser = SmallDenoiser(unet)
    with torch.no_grad(), network.multiplier(strength):
        text = denoiser.encode(TABLE).rows([0, 1])
        return denoiser.predict(randn(2, 4, 8, 8), torch.tensor([500, 20]), text, torch.zeros(2, 6))


def trained(**config: object) -> tuple[UNet2DConditionModel, Network]:
    """A small UNet with a network of random weights on it."""
    unet = small_unet()
    network = create_network(NetworkConfig(**{"linear": 3, "linear_alpha": 1.5, **config}), unet, seed=0)
    randomize(network.parameters(), std=0.2)
    return unet, network


def loaded(
    tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> tuple[UNet2DConditionModel, LoadedLora]:
    unet = small_unet()
    return unet, LoadedLora(unet, file_with(tensors, metadata))


def file_with(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> LoraFile:
    """As if it was read from a file."""
    said = metadata or {}
    return LoraFile(PATH, tensors, said, adapter_in(PATH, said))


def file_of(network: Network, folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    network.save(folder / "lora.safetensors", "float32", {})
    with safe_open(folder / "lora.safetensors", "pt") as file:
        return load_file(folder / "lora.safetensors"), file.metadata()


KINDS = [
    {},
    {"conv": 2, "conv_alpha": 4.0},
    {"type": "loha"},
    {"type": "loha", "conv": 2},
    {"type": "lokr"},
    {"type": "lokr", "linear": 100},
    {"type": "lokr", "conv": 2},
]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: "-".join(map(str, config.values())) or "lora")
def test_a_file_does_what_was_trained(config: dict[str, object], tmp_path: Path) -> None:
    """At 0 nothing, at other strengths what the network in training does, for every kind that can be trained."""
    unet, network = trained(**config)
    base, (other, lora) = ask(unet, network, 0.0), loaded(*file_of(network, tmp_path))
    assert torch.equal(ask(other, lora, 0.0), base)
    for strength in (1.0, -0.7):
        expected = ask(unet, network, strength)
        assert (expected - base).abs().max() > 1e-3
        torch.testing.assert_close(ask(other, lora, strength), expected, atol=2e-5, rtol=1e-4)
    assert list(lora.left_out.sentences()) == []


def test_rows_have_a_strength_of_their_own(tmp_path: Path) -> None:
    """A batch with one strength a row is the same as a call for each."""
    _, network = trained(conv=2)
    unet, lora = loaded(*file_of(network, tmp_path))
    rows = ask(unet, lora, [0.5, -2.0])
    for row, strength in enumerate((0.5, -2.0)):
        torch.testing.assert_close(rows[row], ask(unet, lora, strength)[row], atol=1e-5, rtol=1e-4)


def test_diffusers_own_file_does_the_same(tmp_path: Path) -> None:
    """Keys unet.*.lora_A.weight, written by diffusers; alpha is in its metadata alone."""
    unet, network = trained()
    state = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    config = unet.peft_config[ADAPTER].to_dict()
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata={"r": config["r"], "lora_alpha": 1.5}
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    assert all(key.startswith("unet.") and ".lora_" in key for key in tensors)
    other, lora = loaded(tensors, metadata)
    torch.testing.assert_close(ask(other, lora, 1.0), ask(unet, network, 1.0), atol=2e-5, rtol=1e-4)
    # without it, diffusers scales by 1, as if alpha were the rank
    other, lora = loaded(tensors)
    torch.testing.assert_close(ask(other, lora, 0.5), ask(unet, network, 1.0), atol=2e-5, rtol=1e-4)


def test_a_convolution_in_three_parts_is_three_convolutions() -> None:
    """LoCon's core: 1x1 down, 3x3 in the middle, 1x1 up, as one weight."""
    down, middle, up = randn(3, 4, 1, 1), randn(3, 3, 3, 3, seed=1), randn(5, 3, 1, 1, seed=2)
    parts = {"lora_down.weight": down, "lora_mid.weight": middle, "lora_up.weight": up}
    (change,) = weight_changes(parts, scale=2.0)
    latents = randn(1, 4, 8, 8, seed=3)
    inside = functional.conv2d(functional.conv2d(latents, down), middle, padding=1)
    expected = 2 * functional.conv2d(inside, up)
    torch.testing.assert_close(functional.conv2d(latents, change, padding=1), expected, atol=1e-4, rtol=1e-4)


FORMATS = {
    "base_model.model.{path}.lora_A.weight": "base_model.model.{path}.lora_B.weight",
    "unet.{path}.lora_A.default.weight": "unet.{path}.lora_B.default.weight",
    "diffusion_model.{path}.lora_down.weight": "diffusion_model.{path}.lora_up.weight",
    "unet.{path}.lora.down.weight": "unet.{path}.lora.up.weight",
    "{path}.lora_A.weight": "{path}.lora_B.weight",
}


@pytest.mark.parametrize("down", FORMATS)
def test_other_key_formats_do_the_same(down: str) -> None:
    """PEFT's own, ComfyUI's and diffusers' older ones."""
    unet, network = trained(linear_alpha=3.0)
    assert isinstance(network, PeftLora)
    tensors = {}
    for name, weights in network.weights().items():
        tensors |= {
            down.format(path=name): weights["lora_down.weight"],
            FORMATS[down].format(path=name): weights["lora_up.weight"],
        }
    other, lora = loaded(tensors)
    torch.testing.assert_close(ask(other, lora, 1.0), ask(unet, network, 1.0), atol=2e-5, rtol=1e-4)


def test_sdxl_files_have_either_kind_of_names(tmp_path: Path) -> None:
    """A file with the checkpoint's names and one with diffusers' names find the same layers."""
    unet = UNet2DConditionModel(**unet_config("sdxl")).requires_grad_(False)
    network = PeftLora(unet, rank=2, alpha=2.0, seed=0)
    original, metadata = file_of(network, tmp_path)
    assert any(key.startswith("lora_unet_input_blocks_") for key in original)
    plain = {}
    for name, weights in network.weights().items():
        key = f"lora_unet_{name.replace('.', '_')}"
        plain |= {
            f"{key}.lora_down.weight": weights["lora_down.weight"],
            f"{key}.lora_up.weight": weights["lora_up.weight"],
        }
    fresh = UNet2DConditionModel(**unet_config("sdxl"))
    count = len(network.weights())
    for tensors in (original, plain):
        lora = LoadedLora(fresh, file_with(tensors, metadata))
        assert (lora.layers, lora.left_out.keys) == (count, ())


@pytest.mark.parametrize(
    ("key", "layer", "part"),
    [
        (f"unet.{ATTENTION}.processor.to_q_lora.down.weight", f"{ATTENTION}.to_q", "lora_down.weight"),
        (f"unet.{ATTENTION}.processor.to_out_lora.up.weight", f"{ATTENTION}.to_out.0", "lora_up.weight"),
        (f"unet.{ATTENTION}.to_q.lora_magnitude_vector", f"{ATTENTION}.to_q", "lora_magnitude_vector"),
        ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", "mid_block.resnets.0.conv1", "lora_mid.weight"),
        ("lora_unet_mid_block_resnets_0_conv1.hada_w1_a", "mid_block.resnets.0.conv1", "hada_w1_a"),
    ],
)
def test_a_key_is_taken_apart(key: str, layer: str, part: str) -> None:
    """Layer and part by one name each, whatever the format calls them."""
    read = read_key(key)
    assert (read.owner, read.layer, read.part) == ("model", layer.replace(".", "_"), part)


def test_what_is_not_used_is_told(tmp_path: Path) -> None:
    """Keys of text encoders are counted, those without a layer or of an unknown kind named."""
    _, network = trained()
    tensors, _ = file_of(network, tmp_path)
    extra = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": randn(2, 2),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": randn(2, 2),
        "lora_unet_nowhere.lora_up.weight": randn(2, 2),
        "lora_unet_conv_in.oft_blocks": randn(2, 2),
    }
    _, lora = loaded({**tensors, **extra})
    assert lora.left_out.text == 2
    assert lora.left_out.elsewhere == ("lora_unet_nowhere.lora_up.weight",)
    assert lora.left_out.unknown == ("lora_unet_conv_in.oft_blocks",)
    text, elsewhere, unread = lora.left_out.sentences()
    assert "2 keys for a text encoder" in text
    assert "1 keys are for no layer of this model: lora_unet_nowhere" in elsewhere
    assert "1 parts of OFT or BOFT: lora_unet_conv_in.oft_blocks" in unread


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_nowhere.diff": randn(2, 2)}, "nothing for a layer of this model: it holds lora_unet_nowhere.diff"),
        (
            {f"unet.{ATTENTION}.to_q.lora_A.weight": randn(2, 9), f"unet.{ATTENTION}.to_q.lora_B.weight": randn(9, 2)},
            f"of other widths: {ATTENTION}.to_q is 8 x 8 here, and 9 x 9 there",
        ),
    ],
)
def test_a_file_for_another_model_is_refused(tensors: dict[str, Tensor], said: str) -> None:
    """In one sentence, with a way out."""
    with pytest.raises(NetworkError, match=said) as refused:
        loaded(tensors)
    assert "name the model" in str(refused.value)


def test_the_model_can_be_had_back(tmp_path: Path) -> None:
    """After detach it answers as without the file, whatever strength is set."""
    _, network = trained()
    unet, lora = loaded(*file_of(network, tmp_path))
    base = ask(unet, lora, 0.0)
    lora.detach()
    assert torch.equal(ask(unet, lora, 2.0), base)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"unet.lora_alpha": "x"}', "[" * 100_000, '{"r": 0}', '{"r": ' + "9" * 5000 + "}", "{" * 3_000_000],
)
def test_a_scale_that_cannot_be_read_is_refused(text: str) -> None:
    """Damaged, deep or huge adapter metadata: one sentence that names it; with alphas of its own, a file needs none."""
    with pytest.raises(NetworkError, match=r"lora_adapter_metadata in the metadata of some\.safetensors") as refused:
        loaded({f"unet.{ATTENTION}.to_q.lora_A.weight": randn(2, 8)}, {"lora_adapter_metadata": text})
    assert len(str(refused.value)) < 400
