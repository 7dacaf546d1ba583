"""`leco calibrate`: strength 1 becomes the strength with the whole effect."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_files import alphas_times, as_diffusers, changed, evaluated, nothing, parts, run

from leco_plugin.config.schema import PromptPair
from leco_plugin.engine.figures import Measured, PairFigures
from leco_plugin.lora.calibrate import end_of, target_of
from leco_plugin.lora.scale import scaled, scaled_metadata
from leco_plugin.network.lora_read import LoraFile
from leco_plugin.network.metadata import sidecar

FEW = ("--seeds", "1")


@pytest.fixture(scope="module")
def calibrated(slider: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A LoRA that is too strong, and what calibrate makes of it."""
    folder = tmp_path_factory.mktemp("calibrated")
    strong = changed(slider, folder / "strong.safetensors", alphas_times(6.0))
    result = changed(strong, folder / "result.safetensors", dict)
    result.with_suffix(".json").write_bytes(sidecar(parts(result)[1]))
    assert run("calibrate", result, "--in-place", *FEW) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["result.json", "result.safetensors", "strong.safetensors"]
    return strong, result


def test_strength_one_has_the_whole_effect(slider: Path, calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    """Before, strength 1 does more harm than good; afterwards both sides have half of what the two ends differ by.

    A shape of any size lies between a small and a big one.
    """
    before, after = evaluated(tmp_path, *calibrated, *FEW, "--strengths", "-1,1")["files"]

    def both_sides(file: dict[str, Any]) -> float:
        return sum(pair["effect"] for pair in file["pairs"]) / 2

    assert sum(row["goal_reached"] for row in before["by_strength"]) < 0
    assert both_sides(after) == pytest.approx(0.5, abs=0.15)
    assert float(parts(calibrated[1])[1]["ss_leco_effect"]) == pytest.approx(both_sides(after), abs=0.03)


def test_another_effect_is_had_where_it_is_asked_for(slider: Path, tmp_path: Path) -> None:
    """Strength 1 has it, at both ends together."""
    target = tmp_path / "less.safetensors"
    assert run("calibrate", slider, "--output", target, "--effect", 0.2, *FEW) == 0
    assert float(parts(target)[1]["ss_leco_effect"]) == pytest.approx(0.2, abs=0.01)


def test_the_file_tells_of_it(slider: Path, calibrated: tuple[Path, Path]) -> None:
    """Alphas are scaled and nothing else; metadata has the range at both sides, and hashes of the new weights."""
    strong, result = calibrated
    (old, before), (new, metadata) = parts(strong), parts(result)
    factor = float(metadata["ss_leco_calibrated"])
    assert 0.05 < factor < 0.7
    for key, tensor in old.items():
        expected = tensor.float() * factor if key.endswith("alpha") else tensor
        torch.testing.assert_close(new[key], expected, rtol=1e-3, atol=0)
    low, high = map(float, metadata["ss_leco_strength_range"].split(".."))
    assert low <= -0.5 < 0.5 <= high
    assert float(metadata["ss_network_alpha"]) == pytest.approx(float(before["ss_network_alpha"]) * factor, rel=1e-3)
    data = result.read_bytes()
    weights = data[8 + int.from_bytes(data[:8], "little") :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(weights).hexdigest()
    assert metadata["ss_leco_pairs"] == before["ss_leco_pairs"]
    assert metadata["modelspec.lora_default_weight"] == "1"
    beside = json.loads(result.with_suffix(".json").read_text("utf-8"))
    assert (beside["preferred weight"], beside["notes"]) == (1.0, metadata["modelspec.usage_hint"])
    assert f"from {low:g} to {high:g}" in beside["notes"]


def test_the_input_is_overwritten_only_when_told(
    slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Naming it as the output is refused, in whatever words; without an output another file is written."""
    copy = changed(slider, tmp_path / "copy.safetensors", dict)
    data = copy.read_bytes()
    assert run("calibrate", copy, "--output", tmp_path / ".." / tmp_path.name / "copy.safetensors", *FEW) == 2
    assert "--in-place" in capsys.readouterr().err
    assert copy.read_bytes() == data
    assert target_of(copy, None) == tmp_path / "copy-calibrated.safetensors"


def measured(along: dict[float, float], drift: dict[float, float], beside: float = 0.0) -> Measured:
    """One pair whose concept is 1, with so much beside each effect, and one prompt that shall stay."""
    pair = PromptPair(target="a", positive="b")
    change = {at: x * x * (1 + beside**2) for at, x in along.items()}
    figures = PairFigures(pair, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, {}, along, change)
    return Measured((figures,), {"c": {at: x * x for at, x in drift.items()}}, states=1)


def test_the_range_ends_where_drift_or_the_way_back_begins() -> None:
    """A drift of t at t times the useful strength is below 2 up to twice that; an effect that turns back ends it."""
    grid = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    calm, quick = ({2 * at: factor * at for at in grid} for factor in (0.1, 1.0))
    on, back = {2 * at: at for at in grid}, {2 * at: min(at, 3.2 - at) for at in grid}
    assert end_of(measured(on, calm), 1.0, 2.0, drift_limit=2.0) == 3.0
    assert end_of(measured(on, quick), 1.0, 2.0, drift_limit=2.0) == 2.0
    assert end_of(measured(on, quick), 1.0, 2.0, drift_limit=1.7) == 1.7
    assert end_of(measured(back, calm), 1.0, 2.0, drift_limit=2.0) == 1.5
    assert end_of(measured(on, calm), 1.0, 2.0, drift_limit=2.0, most=1.2) == 1.2


def test_the_range_of_an_erase_ends_where_its_pictures_break() -> None:
    """0.4 off at the useful strength and 0.78 at half as much again: 0.5 lies a fourth of the way between them."""
    grid = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    on, calm = {2 * at: at for at in grid}, dict.fromkeys((2 * at for at in grid), 0.0)
    assert end_of(measured(on, calm, beside=0.4), 1.0, 2.0, drift_limit=2.0, most=2.0) == 1.1
    assert end_of(measured(on, calm, beside=0.4), 1.0, 2.0, drift_limit=2.0) == 3.0


def refused(capsys: pytest.CaptureFixture[str], path: Path, *more: object) -> str:
    assert run("calibrate", path, *FEW, *more) == 2
    assert not list(path.parent.glob("*-calibrated*"))
    return capsys.readouterr().err


def test_what_cannot_be_calibrated_is_refused(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that does nothing, one that goes the wrong way, a DoRA, an output that holds no metadata."""
    assert "does nothing" in refused(capsys, changed(slider, tmp_path / "idle.safetensors", nothing))
    backwards = changed(slider, tmp_path / "backwards.safetensors", alphas_times(-1.0))
    assert "moves away from its concept" in refused(capsys, backwards)
    dora = changed(
        slider,
        tmp_path / "dora.safetensors",
        lambda tensors: {
            **tensors,
            **{k.replace("alpha", "dora_scale"): t for k, t in tensors.items() if "alpha" in k},
        },
    )
    assert "is a DoRA" in refused(capsys, dora)
    assert "no place for metadata" in refused(capsys, slider, "--output", tmp_path / "x.ckpt")


def test_files_without_alphas_have_their_weights_scaled(slider: Path, tmp_path: Path) -> None:
    """Down stays, up is scaled; so are the keys of a text encoder, which loaders scale together with the others."""
    tensors, _ = parts(as_diffusers(slider, tmp_path / "other.safetensors"))
    tensors["text_encoder.some.layer.lora_A.weight"] = torch.ones(2, 2)
    tensors["text_encoder.some.layer.lora_B.weight"] = torch.ones(2, 2)
    for key, tensor in scaled(LoraFile(slider, tensors, {}), 2.0).items():
        torch.testing.assert_close(tensor, tensors[key] * (2 if "lora_B" in key else 1))


def test_metadata_follows_as_far_as_it_is_numbers() -> None:
    """Both alphas of the network; words that other trainers write there stay."""
    metadata = {"ss_network_alpha": "8", "ss_network_args": json.dumps({"conv_alpha": "4", "algo": "lora"})}
    assert scaled_metadata({**metadata, "sshs_model_hash": "old"}, 0.5) == {
        "ss_network_alpha": "4",
        "ss_network_args": json.dumps({"conv_alpha": "2", "algo": "lora"}),
    }
    assert scaled_metadata({"ss_network_alpha": "Dynamic"}, 0.5) == {"ss_network_alpha": "Dynamic"}
