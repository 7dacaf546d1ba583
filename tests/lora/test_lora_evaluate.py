"""`leco evaluate`: what a LoRA does, by figures that do not depend on the file's format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lora_files import SLIDER, alphas_times, as_diffusers, changed, evaluated, nothing, parts, run
from safetensors.torch import save_file

from leco_plugin.lora.evaluate import short_names
from leco_plugin.lora.file import Lora

NAMES = "1: tiny.safetensors", "2: idle.safetensors"
FEW = ("--seeds", "1", "--strengths", "-1,0,1")


def test_a_trained_file_tells_what_it_was_trained_with(slider: Path) -> None:
    """Pairs, preserved prompts, model and walks are in its metadata."""
    lora = Lora.read(slider)
    assert [pair.multiplier for pair in lora.pairs] == [1.0, -1.0]
    assert (lora.preserve, lora.model) == (("a cross",), "builtin:tiny")
    course = lora.course(3)
    assert (course.sampler, course.steps, course.guidance, course.samples) == ("ddim", 8, 3.0, 3)


def test_files_are_measured_side_by_side(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run reaches a part of its goal and drifts, at both sides; one without a change does nothing, and says so."""
    idle = changed(slider, tmp_path / "idle.safetensors", nothing)
    tree = evaluated(tmp_path, slider, idle, *FEW)
    assert (tree["model"], tree["untouched"], tree["strengths"]) == ("builtin:tiny", ["a cross"], [-1, 0, 1])
    trained, still = tree["files"]
    low, none, high = trained["by_strength"]
    assert low["goal_reached"] > 0.2
    assert high["goal_reached"] > 0.2
    assert (none["effect"], none["side_effect"], none["drift"], none["goal_reached"]) == (0, 0, 0, 0)
    assert low["effect"] < 0 < high["effect"]
    assert 0 < high["side_effect"] < 2
    assert high["drift"] == trained["drift_by_prompt"]["a cross"]["1"] > 0
    assert trained["monotonicity"] == pytest.approx(1)
    assert still["monotonicity"] is None
    assert [abs(row["goal_reached"]) for row in still["by_strength"]] == pytest.approx([0, 0, 0], abs=1e-4)
    assert [pair["goal_reached"] > 0.2 for pair in trained["pairs"]] == [True, True]
    out = capsys.readouterr().out
    assert "idle.safetensors: it does nothing" in out
    assert (trained["does_nothing"], still["does_nothing"]) == (False, True)
    assert "side effect" in out
    assert re.search(
        r"at strength 1 it moves pictures by 0\.\d\d of what 'a big shape' differs from 'a small shape'", out
    )
    assert "the sentence on each pair at its own end alone" in " ".join(out.split())


def test_the_key_format_makes_no_difference(slider: Path, tmp_path: Path) -> None:
    """The same LoRA as diffusers writes it, which tells nothing of prompts or model, gives the same figures."""
    other = as_diffusers(slider, tmp_path / "other.safetensors")
    prompts = tmp_path / "p.toml"
    lines = [f"{key} = {value!r}" for key, value in SLIDER[0].items() if key not in ("resolution", "multiplier")]
    mirrored = [line.replace("enhance", "erase") for line in lines]
    both = ["[[prompts]]", *lines, "[[prompts]]", *mirrored, "multiplier = -1.0"]
    prompts.write_text("\n".join(["resolution = 64", *both]), "utf-8")
    same = ("--model", "builtin:tiny", "--prompts", prompts, "--untouched", "a cross", *FEW)
    first, second = evaluated(tmp_path, slider, other, *same)["files"]
    for one, two in zip(first["by_strength"], second["by_strength"], strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=1e-4)


def test_keys_that_are_left_out_are_told(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text-encoder keys by number, others by name."""
    odd = changed(
        slider,
        tmp_path / "odd.safetensors",
        lambda tensors: {
            **tensors,
            "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": next(iter(tensors.values())),
            "lora_unet_elsewhere.alpha": next(iter(tensors.values())),
        },
    )
    file = evaluated(tmp_path, odd, "--seeds", "1", "--strengths", "1")["files"][0]
    assert (file["text_encoder_keys_left_out"], file["unknown_keys_left_out"]) == (1, ["lora_unet_elsewhere.alpha"])
    out = capsys.readouterr().out
    assert "1 keys for a text encoder" in out
    assert "fits only partly" in out


def test_one_strength_is_enough_to_see_that_something_is_done(
    slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that reached something never does nothing, however few strengths are asked for."""
    weak = changed(slider, tmp_path / "weak.safetensors", alphas_times(0.02))
    for strengths in ("1", "0", "0.01,0.02"):
        (file,) = evaluated(tmp_path, weak, "--seeds", "1", "--strengths", strengths)["files"]
        assert file["does_nothing"] is False
    assert "nothing" not in capsys.readouterr().out


def test_files_of_one_name_are_told_apart(
    slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By as much of their paths as differs; and no head of the table is cut in 80 columns, however many files."""
    files = []
    for folder in ("first", "second", "third", "fourth"):
        (tmp_path / folder / "run").mkdir(parents=True)
        files.append(changed(slider, tmp_path / folder / "run" / "lora.safetensors", nothing))
    monkeypatch.setenv("COLUMNS", "80")
    assert run("evaluate", *files, *FEW) == 0
    out = capsys.readouterr().out
    for number, folder in enumerate(("first", "second", "third", "fourth"), start=1):
        assert f"{number}: {folder}/run/lora.safetensors\n" in out
        assert f"{folder}/run/lora.safetensors: it does nothing" in out
    assert "\u2026" not in out
    assert all(head in out for head in ("strength", "file", "effect", "side effect", "drift", "goal reached"))


def test_files_are_drawn_beside_one_another(slider: Path, tmp_path: Path) -> None:
    """One page: for each target and seed the base model, and every file at every strength under one slider."""
    idle = changed(slider, tmp_path / "idle.safetensors", nothing)
    target = tmp_path / "page.html"
    assert run("evaluate", slider, idle, *FEW, "--pictures", target) == 0
    page = target.read_text("utf-8")
    assert len(re.findall(r'<div class="shot wide">', page)) == 2
    assert len(re.findall(r'<input type="range"', page)) == 1
    # two seeds: the base model once, and two files at three strengths
    assert len(re.findall("<img ", page)) == 2 * (1 + 2 * 3)
    assert "1: tiny.safetensors" in page
    assert "2: idle.safetensors" in page
    first, second = (re.findall(rf'src="([^"]+)"[^>]*alt="a shape, {name}, strength [+]1"', page) for name in NAMES)
    base = re.findall(r'src="([^"]+)"[^>]*alt="a shape, base model"', page)
    assert first != base == second


def test_names_are_as_short_as_they_tell_apart() -> None:
    """The file's own name where that is enough; the same file twice has it, too."""
    paths = [Path(text) for text in ("/a/x/one.pt", "/b/x/one.pt", "/b/x/two.pt", "/b/x/two.pt")]
    assert short_names(paths) == ["a/x/one.pt", "b/x/one.pt", "two.pt", "two.pt"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_what_is_missing_is_asked_for(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts and model where the file tells neither; one set of prompts for all files."""
    plain = tmp_path / "plain.safetensors"
    save_file(parts(slider)[0], plain)
    assert "--prompts" in refused(capsys, "evaluate", plain)
    local = changed(slider, tmp_path / "local.safetensors", dict, ss_sd_model_name="model.safetensors")
    error = refused(capsys, "evaluate", local)
    assert "'model.safetensors'" in error
    assert "--model" in error
    other = changed(slider, tmp_path / "b.safetensors", dict, ss_leco_pairs='[{"target": "red", "positive": "red"}]')
    assert "different prompts" in refused(capsys, "evaluate", slider, other)
    assert "ss_leco_pairs cannot be read" in refused(
        capsys, "evaluate", changed(slider, tmp_path / "c.safetensors", dict, ss_leco_pairs='[{"target": 3}]')
    )


def test_broken_files_are_refused_by_name(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file, no LoRA, numbers that are not finite, strengths that are none."""
    broken = changed(slider, tmp_path / "broken.safetensors", alphas_times(float("nan")))
    assert "is broken" in refused(capsys, "evaluate", broken)
    assert f"there is no {tmp_path}" in refused(capsys, "evaluate", tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    assert "cannot be read" in refused(capsys, "evaluate", tmp_path / "text.safetensors")
    assert "are not strengths" in refused(capsys, "evaluate", slider, "--strengths", "high")
