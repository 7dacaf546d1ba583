"""Folders that PEFT wrote, read as PEFT reads them: its rules of scale and of which layers are meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import randn, small_unet
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leco_plugin.errors import NetworkError
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_read import LoraFile

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["proj_in", "conv1", "conv_shortcut"]
Edit = dict[str, Any]


def ask(unet: nn.Module) -> Tensor:
    with torch.no_grad():
        predicted: Tensor = unet(randn(2, 4, 8, 8), torch.tensor([500, 20]), randn(2, 5, 8, seed=1), return_dict=False)[
            0
        ]
    return predicted


def write_folder(folder: Path, config: Any, **edit: object) -> None:
    """A folder with random weights, whose config is changed afterwards."""
    model = get_peft_model(small_unet(), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "hada_" in name or "lokr_" in name:
                size = 1.0 if "magnitude" in name else 0.0
                parameter.copy_(size * parameter + 0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **edit}), "utf-8")


def by_peft(folder: Path) -> Tensor:
    return ask(PeftModel.from_pretrained(small_unet(), folder))


def by_us(path: Path, strength: float = 1.0) -> tuple[Tensor, LoadedLora]:
    unet = small_unet()
    lora = LoadedLora(unet, LoraFile.read(path))
    with lora.multiplier(strength):
        return ask(unet), lora


FOLDERS: dict[str, tuple[Any, Edit]] = {
    "alpha": (LoraConfig(r=4, lora_alpha=2, target_modules=ATTENTION), {}),
    "convolutions": (LoraConfig(r=4, lora_alpha=2, target_modules=[*ATTENTION, *CONVOLUTIONS]), {}),
    "rslora": (LoraConfig(r=4, lora_alpha=2, target_modules=ATTENTION, use_rslora=True), {}),
    "patterns": (
        LoraConfig(
            r=4,
            lora_alpha=2,
            target_modules=ATTENTION,
            rank_pattern={"to_q": 3, r"down_blocks.*to_k": 2},
            alpha_pattern={"to_q": 6, r"^mid_block.*attn1\.to_v": 1, "o_k": 100},
        ),
        {},
    ),
    "rslora and patterns": (
        LoraConfig(
            r=4, lora_alpha=2, target_modules=ATTENTION, use_rslora=True, rank_pattern={"to_q": 3}, alpha_pattern={}
        ),
        {"alpha_pattern": {"to_q": 5}},
    ),
    "some layers": (
        LoraConfig(r=4, lora_alpha=2, target_modules=ATTENTION),
        {"layers_to_transform": [1], "layers_pattern": ["up_blocks"]},
    ),
    "fewer targets": (LoraConfig(r=4, lora_alpha=2, target_modules=ATTENTION), {"target_modules": ["to_q", "to_v"]}),
    "a regular expression": (LoraConfig(r=4, lora_alpha=2, target_modules=r".*attn2\.to_[qk]"), {}),
    "exclusions": (LoraConfig(r=4, lora_alpha=2, target_modules=ATTENTION), {"exclude_modules": ["attn1.to_q"]}),
    "biases": (LoraConfig(r=4, lora_alpha=2, target_modules=["to_out.0", *CONVOLUTIONS], lora_bias=True), {}),
    "dora": (LoraConfig(r=4, lora_alpha=2, target_modules=[*ATTENTION, *CONVOLUTIONS], use_dora=True), {}),
    "loha": (LoHaConfig(r=4, alpha=2, target_modules=[*ATTENTION, *CONVOLUTIONS], rank_pattern={"to_q": 2}), {}),
    "loha with cores": (LoHaConfig(r=4, alpha=2, target_modules=CONVOLUTIONS, use_effective_conv2d=True), {}),
    "lokr": (LoKrConfig(r=2, alpha=3, target_modules=[*ATTENTION, *CONVOLUTIONS]), {}),
    "lokr of whole factors": (LoKrConfig(r=100, alpha=40, target_modules=ATTENTION, alpha_pattern={"to_q": 9}), {}),
    "lokr with cores": (LoKrConfig(r=2, alpha=3, target_modules=["conv1"], use_effective_conv2d=True), {}),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.filterwarnings(
    "ignore::peft.utils.warning.PeftWarning", "ignore:Found missing adapter keys", "ignore:The following alpha_pattern"
)
def test_a_folder_does_what_it_does_in_peft(name: str, tmp_path: Path) -> None:
    """At strength 1 the same predictions, whatever of PEFT's options the folder was made with."""
    config, edit = FOLDERS[name]
    write_folder(tmp_path, config, **edit)
    base, expected = ask(small_unet()), by_peft(tmp_path)
    ours, lora = by_us(tmp_path)
    assert (expected - base).abs().max() > 0.01
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
    left = lora.left_out
    assert (left.text, left.unknown, left.untold) == (0, (), 0)
    assert bool(left.elsewhere) == (name in ("some layers", "fewer targets", "exclusions"))


def test_the_file_in_the_folder_is_read_with_what_lies_beside_it(tmp_path: Path) -> None:
    """By its own path, too; without the config the scale is not known, is taken as 1, and that is said."""
    write_folder(tmp_path, FOLDERS["alpha"][0])
    path = tmp_path / "adapter_model.safetensors"
    beside, lora = by_us(path)
    torch.testing.assert_close(beside, by_peft(tmp_path), atol=2e-5, rtol=1e-4)
    (tmp_path / "adapter_config.json").unlink()
    alone, lora = by_us(path, strength=0.5)
    torch.testing.assert_close(alone, beside, atol=2e-5, rtol=1e-4)
    (said,) = lora.left_out.sentences()
    assert f"{lora.layers} layers tell no alpha: they are taken at scale 1" in said


def test_alphas_in_the_file_come_first(tmp_path: Path) -> None:
    """A key .alpha says more of its layer than a config beside it."""
    write_folder(tmp_path, FOLDERS["alpha"][0])
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    down = [key for key in tensors if "lora_A" in key]
    told = {key.replace("lora_A.weight", "alpha"): torch.tensor(4.0) for key in down}
    half, _ = by_us(path, strength=2.0)
    save_file({**tensors, **told}, path)
    torch.testing.assert_close(by_us(path)[0], half, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"rank_pattern": {"to_q": 7}}, "to_q has rank 4 where its config says 7"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"r": 0}, "adapter_config.json cannot be read: r:"),
        ({"alpha_pattern": {"(": 1}}, "cannot be read"),
        ({"target_modules": "("}, "cannot be read"),
        ({"target_modules": r"(\w+)*x"}, "takes too long"),
        ({"exclude_modules": r"(\w+)*x"}, "takes too long"),
        ({"rank_pattern": {r"(\w+)*x": 2}}, "takes too long"),
        ({"layers_to_transform": [1], "layers_pattern": [r"(\w+)*x"]}, "takes too long"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights pissa_niter_4 changes the model's own weights"),
        ({"init_lora_weights": "olora"}, "changes the model's own weights"),
    ],
)
def test_a_config_that_contradicts_is_refused(edit: Edit, said: str, tmp_path: Path) -> None:
    """In one sentence with the config's name or the layer's."""
    write_folder(tmp_path, FOLDERS["alpha"][0], **edit)
    with pytest.raises(NetworkError) as refused:
        by_us(tmp_path)
    assert said in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_folder_in_place_of_the_config_is_refused(tmp_path: Path) -> None:
    """By its path."""
    write_folder(tmp_path, FOLDERS["alpha"][0])
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_config.json").mkdir()
    with pytest.raises(NetworkError, match=r"adapter_config\.json cannot be read"):
        by_us(tmp_path)


def test_folders_without_a_lora_or_with_several_are_refused(tmp_path: Path) -> None:
    """The fix tells what to name."""
    with pytest.raises(NetworkError, match="is a folder with no LoRA"):
        LoraFile.read(tmp_path)
    for name in "ab":
        save_file({"a": randn(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(NetworkError, match=r"with 2 \.safetensors files, such as a\.safetensors"):
        LoraFile.read(tmp_path)
