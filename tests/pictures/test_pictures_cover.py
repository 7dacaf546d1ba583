"""What user interfaces show of a finished LoRA: how it is used, and a picture where one was drawn."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from models import tiny_job
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from leco_plugin.errors import ConfigError
from leco_plugin.network.metadata import leco_metadata
from leco_plugin.plugins import plugin_manager, run_job

SAMPLE = {
    "prompts": ("a red circle", "a blue square"),
    "multipliers": (1.0,),
    "width": 64,
    "height": 64,
    "sample_steps": 2,
}


def trained(folder: Path, **changes: Any) -> Path:
    job = tiny_job(folder, train={"steps": 2}, **changes)
    return run_job(job, manager=plugin_manager(installed=False)).path


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def opened(file: Path | io.BytesIO) -> Image.Image:
    with Image.open(file) as picture:
        picture.load()
        return picture


def test_the_last_strip_is_in_the_file_and_changes_no_weight(tmp_path: Path) -> None:
    """As a small JPEG in a data URI; a run without pictures has none, and is the same byte for byte each time."""
    drawn, plain, again = (
        trained(tmp_path / "drawn", sample=SAMPLE),
        trained(tmp_path / "plain"),
        trained(tmp_path / "again"),
    )
    kind, _, data = metadata(drawn)["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    small = opened(io.BytesIO(base64.b64decode(data)))
    strip = opened(tmp_path / "drawn" / "tiny" / "samples" / "tiny-step00000002-01.png")
    assert small.format == "JPEG"
    assert max(small.size) <= 512
    assert small.width / small.height == pytest.approx(strip.width / strip.height, rel=0.05)
    difference = sum(small.resize((8, 8)).convert("L").tobytes()) - sum(strip.resize((8, 8)).convert("L").tobytes())
    assert abs(difference) / 64 < 8
    without = {key: value for key, value in metadata(drawn).items() if key != "modelspec.thumbnail"}
    assert without == metadata(plain)
    assert load_file(drawn).keys() == load_file(plain).keys()
    assert all(bool((load_file(drawn)[key] == tensor).all()) for key, tensor in load_file(plain).items())
    assert plain.read_bytes() == again.read_bytes()


def test_sidecars_are_written_when_they_are_asked_for(tmp_path: Path) -> None:
    """NAME.json in A1111's words and NAME.png; neither without save.sidecar."""
    path = trained(tmp_path / "a", sample=SAMPLE, save={"sidecar": True})
    said = json.loads(path.with_suffix(".json").read_text("utf-8"))
    known = metadata(path)
    assert said == {
        "description": known["modelspec.description"],
        "sd version": "SD1",
        "activation text": "",
        "preferred weight": 1.0,
        "negative text": "",
        "notes": known["modelspec.usage_hint"],
    }
    assert opened(path.with_suffix(".png")).format == "PNG"
    other = trained(tmp_path / "b", sample=SAMPLE)
    assert [file.suffix for file in other.parent.glob("tiny.*") if file.suffix in (".json", ".png")] == []


def test_a_file_of_the_user_is_no_sidecar(tmp_path: Path) -> None:
    """One of that name that is something else stops the run before it begins."""
    folder = tiny_job(tmp_path).output_folder
    folder.mkdir(parents=True)
    (folder / "tiny.json").write_text('{"job": "mine"}', "utf-8")
    with pytest.raises(ConfigError, match=r"is not what save\.sidecar writes"):
        trained(tmp_path, save={"sidecar": True})
    assert (folder / "tiny.json").read_text("utf-8") == '{"job": "mine"}'


@pytest.mark.parametrize(("format_", "more"), [("pt", {}), ("safetensors", {"no_metadata": True})])
def test_files_without_metadata_get_a_sidecar(format_: str, more: dict[str, Any], tmp_path: Path) -> None:
    """A pickle stays what it is."""
    path = trained(tmp_path, sample=SAMPLE, save={"format": format_, "sidecar": True, **more})
    assert path.with_suffix(".json").is_file()
    assert path.with_suffix(".png").is_file()
    assert path.suffix == ".pt" or metadata(path) == {}


def test_how_a_file_is_used_is_in_its_metadata(tmp_path: Path) -> None:
    """By the multipliers of its pairs: a slider goes both ways, and its default is what it was trained at."""
    one = {"target": "a shape", "positive": "a big shape", "action": "enhance"}
    job = tiny_job(tmp_path, pairs=({**one, "multiplier": 2.0}, {**one, "action": "erase", "multiplier": -2.0}))
    said = leco_metadata(job.pairs, job.leco, "ddim")
    assert said["modelspec.usage_hint"] == "a slider, strength -2 to 2; no trigger word"
    assert said["modelspec.lora_default_weight"] == "2"
    assert said["modelspec.description"] == (
        "LECO: enhance 'a big shape' in 'a shape'; erase 'a big shape' in 'a shape'"
    )
    job = tiny_job(tmp_path, pairs=({"target": "red", "positive": "red"},))
    said = leco_metadata(job.pairs, job.leco, "ddim")
    assert (said["modelspec.usage_hint"], said["modelspec.lora_default_weight"]) == ("strength 1; no trigger word", "1")
