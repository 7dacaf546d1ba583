"""`leco preview`: strips of a LoRA file, whoever wrote it, with the base model among them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import CPU, randomize
from PIL import Image
from safetensors.torch import save_file

from leco_plugin.commands.main import main
from leco_plugin.config.schema import PromptPair
from leco_plugin.families.load import load_model
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_read import LoraFile
from leco_plugin.network.peft_lora import PeftLora
from leco_plugin.pictures.painter import Painter, PictureSettings, Shot, cut

FAST = ["--steps", "2", "--device", "cpu"]
SIZE = ["--width", "64", "--height", "64"]
PAIR = PromptPair(target="red star", positive="big", resolution=(64, 128), multiplier=-1.0)
METADATA = {"ss_sd_model_name": "builtin:tiny", "ss_leco_pairs": json.dumps([PAIR.model_dump(mode="json")])}


@pytest.fixture(scope="module")
def network() -> PeftLora:
    """A LoRA that does a lot, on the built-in model."""
    made = PeftLora(load_model("builtin:tiny", dtype="fp32", device=CPU).module, rank=2, alpha=2.0, seed=0)
    randomize(made.parameters(), std=0.3)
    return made


@pytest.fixture
def lora(network: PeftLora, tmp_path: Path) -> Path:
    """Its file, as LECO writes it."""
    network.save(tmp_path / "size.safetensors", "float32", METADATA)
    return tmp_path / "size.safetensors"


def drawn(path: Path, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, height, width, 3) of a strip."""
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        return np.array([[np.asarray(tile) for tile in row] for row in cut(sheet, rows, columns)]).astype(int)


def test_a_strip_is_what_the_painter_draws_at_each_strength(lora, capsys):
    """A row a seed, a column a strength; the base model is there though it was not asked for."""
    arguments = ["--prompt", "red star", "--strengths", "-1,2", "--seeds", "3,4", "--guidance", "3", *SIZE, *FAST]
    assert main(["preview", str(lora), *arguments]) == 0
    path = lora.parent / "size-preview" / "01-red-star.png"
    assert capsys.readouterr().out.splitlines() == [f"drew {path}"]
    tiles = drawn(path, 2, 3)
    model = load_model("builtin:tiny", dtype="fp32", device=CPU)
    painter = Painter(
        model, LoadedLora(model.module, LoraFile.read(lora)), ["red star"], PictureSettings(64, 64, 2, 3.0)
    )
    for column, strength in enumerate((-1.0, 0.0, 2.0)):
        for row, picture in enumerate(painter.draw([Shot("red star", 3), Shot("red star", 4)], strength)):
            # small pictures are enlarged to twice their size
            assert np.abs(tiles[row, column, ::2, ::2] - np.asarray(picture).astype(int)).max() <= 1
    assert np.abs(tiles[:, 0] - tiles[:, 2]).max() > 20


def test_the_file_tells_model_prompts_size_and_strengths(lora):
    """A slider goes from -2 to 2; each target gets a strip of its own."""
    assert main(["preview", str(lora), "--output", str(lora.parent / "out"), *FAST]) == 0
    (path,) = (lora.parent / "out").iterdir()
    assert drawn(path, 1, 5).shape == (1, 5, 128, 256, 3)


def test_a_file_in_diffusers_keys_gives_the_same_pictures(network, lora):
    """PEFT's names, no alpha and no metadata: the model and the prompt are named instead."""
    tensors = {}
    for name, weights in network.weights().items():
        tensors[f"unet.{name}.lora_A.weight"] = weights["lora_down.weight"].contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = weights["lora_up.weight"].contiguous()
    save_file(tensors, lora.parent / "other.safetensors")
    arguments = ["--model", "builtin:tiny", "--prompt", "red star", "--strengths", "1", *SIZE, *FAST]
    for file in ("size", "other"):
        assert main(["preview", str(lora.parent / f"{file}.safetensors"), *arguments]) == 0
    ours, other = (drawn(lora.parent / f"{file}-preview" / "01-red-star.png", 1, 2) for file in ("size", "other"))
    assert np.abs(ours - other).max() <= 1
    assert np.abs(ours[0, 0] - ours[0, 1]).max() > 20


def test_the_lora_can_be_switched_on_late(lora):
    """After all steps it is the base model's picture."""
    for step in (0, 2):
        arguments = ["--strengths", "2", "--from-step", str(step), "--output", str(lora.parent / str(step)), *FAST]
        assert main(["preview", str(lora), *arguments]) == 0
    at_once, never = (drawn(lora.parent / step / "01-red-star.png", 1, 2)[0] for step in ("0", "2"))
    assert np.array_equal(never[0], never[1])
    assert np.array_equal(never[0], at_once[0])
    assert not np.array_equal(at_once[0], at_once[1])


@pytest.mark.parametrize(
    ("metadata", "arguments", "message"),
    [
        ({}, [], "does not tell what it was trained with"),
        ({}, ["--prompt", "a"], "does not tell what model it is for"),
        ({**METADATA, "ss_sd_model_name": "dreamy.safetensors"}, [], "no more of its model than the name"),
        (METADATA, ["--height", "100"], "not a multiple of 8"),
        (METADATA, ["--steps", "1000"], "cannot take 1000"),
        (METADATA, ["--strengths", "two"], "'two' are not strengths"),
        (METADATA, ["--model", "nowhere.safetensors"], "there is no such file"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(network, tmp_path, capsys, metadata, arguments, message):
    """Exit code 2, and nothing half-made."""
    network.save(tmp_path / "a.safetensors", "float32", metadata)
    # what a network says of itself is there in any case
    assert main(["preview", str(tmp_path / "a.safetensors"), "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_of_another_model_is_refused(lora, capsys):
    """By the layer that it has nothing for."""
    save_file({"lora_unet_elsewhere.diff": torch.zeros(1, 1)}, lora.parent / "b.safetensors", METADATA)
    assert main(["preview", str(lora.parent / "b.safetensors"), *FAST]) == 2
    assert "has nothing for a layer of this model" in capsys.readouterr().err
