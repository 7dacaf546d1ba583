"""Training goes on from every file that can be measured, and does at first what the file does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from models import Recorder, randn, randomize, small_unet, tiny_job
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_models import SECOND_WIDTH, WIDTHS, unet_config
from torch import Tensor, nn

from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import NetworkError
from leco_plugin.events import Warned
from leco_plugin.hookspecs import hookimpl
from leco_plugin.network.create import create_network
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_read import LoraFile
from leco_plugin.network.peft_lora import PeftLora
from leco_plugin.plugins import plugin_manager, run_job

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def make_unet(family: str) -> UNet2DConditionModel:
    if family == "small":
        return small_unet()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(**unet_config(family)).requires_grad_(False).eval()


def ask(unet: nn.Module, family: str) -> Tensor:
    width = WIDTHS.get(family, 8)
    added: dict[str, Any] = {}
    if family == "sdxl":
        added = {"added_cond_kwargs": {"text_embeds": randn(2, SECOND_WIDTH, seed=2), "time_ids": torch.ones(2, 6)}}
    with torch.no_grad():
        predicted: Tensor = unet(
            randn(2, 4, 8, 8), torch.tensor([500, 20]), randn(2, 5, width, seed=1), return_dict=False, **added
        )[0]
    return predicted


def same_as_measured(path: Path, family: str = "small", **network: Any) -> Any:
    """A network that starts from a file, which at first predicts what evaluate measures."""
    measured, trained = make_unet(family), make_unet(family)
    lora = LoadedLora(measured, LoraFile.read(path))
    settings = {"dim_from_weights": True, **network}
    started = create_network(NetworkConfig(network_weights=path, **settings), trained, seed=0)
    with lora.multiplier(0.7), started.multiplier(0.7):
        ours = ask(trained, family)
        torch.testing.assert_close(ours, ask(measured, family), atol=2e-5, rtol=1e-4)
    assert (ours - ask(make_unet(family), family)).abs().max() > 1e-3
    return started


def saved(folder: Path, family: str = "small", **network: Any) -> Path:
    made = create_network(NetworkConfig(**{"linear": 3, "linear_alpha": 1.5, **network}), make_unet(family), seed=0)
    randomize(made.parameters(), std=0.2)
    made.save(folder / "lora.safetensors", "float32", {})
    return folder / "lora.safetensors"


def test_an_sdxl_file_in_diffusers_names(tmp_path: Path) -> None:
    """``unet.down_blocks...lora_A.weight``, beside text-encoder keys, which are set aside and said."""
    unet = make_unet("sdxl")
    network = PeftLora(unet, rank=2, alpha=2.0, seed=0)
    randomize(network.parameters(), std=0.2)
    tensors: dict[str, Tensor] = {"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": randn(2, 4)}
    for name, weights in network.weights().items():
        tensors |= {
            f"unet.{name}.lora_A.weight": weights["lora_down.weight"],
            f"unet.{name}.lora_B.weight": weights["lora_up.weight"],
        }
    path = tmp_path / "diffusers.safetensors"
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)
    started = same_as_measured(path, "sdxl")
    assert [note.split(":")[0] for note in started.notes] == [path.name] * 2
    assert "1 keys for a text encoder" in started.notes[0]
    assert "tell no alpha" in started.notes[1]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("lora", LoraConfig(r=4, lora_alpha=2, target_modules=[*ATTENTION, "proj_in"], rank_pattern={"to_q": 2})),
        ("lora", LoraConfig(r=4, lora_alpha=2, target_modules=ATTENTION, use_rslora=True)),
        ("loha", LoHaConfig(r=3, alpha=2, target_modules=ATTENTION)),
        ("lokr", LoKrConfig(r=2, alpha=3, target_modules=ATTENTION)),
        ("lokr", LoKrConfig(r=100, alpha=40, target_modules=ATTENTION)),
    ],
    ids=["patterns", "rslora", "loha", "lokr", "lokr of whole factors"],
)
def test_a_peft_folder(kind: str, config: Any, tmp_path: Path) -> None:
    """With the scale that its config tells, which the file that is saved next has in its alphas."""
    model = get_peft_model(small_unet(), config)
    randomize((p for n, p in model.named_parameters() if "lora_" in n or "hada_" in n or "lokr_" in n), std=0.3)
    model.save_pretrained(tmp_path)
    started = same_as_measured(tmp_path, type=kind)
    assert started.notes == ()
    started.save(tmp_path / "again" / "lora.safetensors", "float32", {})
    again = same_as_measured(tmp_path / "again" / "lora.safetensors", type=kind)
    for one, two in zip(started.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.data, two.data)


@pytest.mark.parametrize("ending", ["ckpt", "pt"])
def test_our_own_pickles(ending: str, tmp_path: Path) -> None:
    """A run that saved .ckpt or .pt goes on from it; no code of a pickle is run."""
    path = tmp_path / f"lora.{ending}"
    torch.save(load_file(saved(tmp_path, conv=2)), path)
    assert same_as_measured(path).notes == ()


def test_what_cannot_be_trained_is_left_out_and_said(tmp_path: Path) -> None:
    """A bias beside the factors, as a note and in the run's own warnings."""
    path = saved(tmp_path)
    tensors = load_file(path)
    bias = "lora_unet_down_blocks_0_attentions_0_proj_in.diff_b"
    save_file({**tensors, bias: randn(8)}, path)
    started = create_network(NetworkConfig(network_weights=path, dim_from_weights=True), small_unet(), seed=0)
    assert started.notes == (f"{path.name}: 1 tensors are not trained here and left out, such as {bias}",)


class Watched:
    """A plugin with an observer."""

    def __init__(self) -> None:
        self.recorder = Recorder()

    @hookimpl
    def leco_observers(self) -> list[Recorder]:
        return [self.recorder]


def test_a_run_says_what_it_left_out(tmp_path: Path) -> None:
    """As a warning at its start."""
    first = run_job(tiny_job(tmp_path / "a", train={"steps": 1}), manager=plugin_manager(installed=False)).path
    path = tmp_path / "more.safetensors"
    save_file({**load_file(first), "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0)}, path)
    watched, manager = Watched(), plugin_manager(installed=False)
    manager.register(watched)
    network = {"network_weights": path, "dim_from_weights": True}
    run_job(tiny_job(tmp_path / "b", train={"steps": 1}, network=network), manager=manager)
    said = [event.message for event in watched.recorder.of(Warned)]
    assert any(message.startswith("more.safetensors: left out: 1 keys for a text encoder") for message in said)


@pytest.mark.parametrize(
    ("part", "kind", "said"),
    [
        ("dora_scale", "lora", "is a DoRA, which is not trained here"),
        ("lora_mid.weight", "lora", "convolutions with a core"),
        (None, "loha", "is no loha file: it holds lora_unet_"),
    ],
)
def test_networks_that_are_not_trained_are_refused(part: str | None, kind: str, said: str, tmp_path: Path) -> None:
    """By what they are, and never as made for another model."""
    path = saved(tmp_path, conv=2, conv_alpha=1.5)
    tensors = load_file(path)
    layer = "lora_unet_down_blocks_0_resnets_0_conv1"
    if part == "lora_mid.weight":
        tensors |= {f"{layer}.lora_down.weight": randn(2, 8, 1, 1), f"{layer}.{part}": randn(2, 2, 3, 3)}
    elif part:
        tensors[f"{layer}.{part}"] = randn(8, 1)
    save_file(tensors, path)
    with pytest.raises(NetworkError, match=said) as refused:
        create_network(NetworkConfig(type=kind, network_weights=path, dim_from_weights=True), small_unet(), seed=0)  # type: ignore[arg-type]
    assert "other widths" not in str(refused.value)
