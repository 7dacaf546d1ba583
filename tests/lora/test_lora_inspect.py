"""`leco inspect`: what is in a file, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_files import alphas_times, as_diffusers, changed, nothing, parts, run
from safetensors.torch import save_file


def inspected(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, Any]:
    assert run("inspect", path, "--json") == 0
    tree: dict[str, Any] = json.loads(capsys.readouterr().out)
    return tree


def test_layers_are_counted_by_kind(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With rank, alpha and the norm of what they change, the same in every key format."""
    layers = inspected(capsys, slider)["layers"]
    assert layers["cross-attention"]["layers"] == layers["self-attention"]["layers"] == 28
    assert {name: (kind["ranks"], kind["alphas"]) for name, kind in layers.items()} == {
        name: ([4], [2.0]) for name in ("cross-attention", "feed-forward", "projections", "self-attention")
    }
    tensors, _ = parts(slider)
    keys = [key.removesuffix(".alpha") for key in tensors if "_ff_" in key and key.endswith("alpha")]
    squared = 0.0
    for key in keys:
        change = tensors[f"{key}.lora_up.weight"].float() @ tensors[f"{key}.lora_down.weight"].float()
        squared += float((2.0 / 4 * change).square().sum())
    assert layers["feed-forward"]["norm"] == pytest.approx(squared**0.5, rel=1e-4)
    other = inspected(capsys, as_diffusers(slider, tmp_path / "other.safetensors"))["layers"]
    assert other["feed-forward"]["norm"] == pytest.approx(layers["feed-forward"]["norm"], rel=1e-2)


def test_hashes_metadata_and_range_are_shown(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hashes are those of the file as it is; weights that were changed afterwards are noticed."""
    tree = inspected(capsys, slider)
    assert tree["hashes"]["sha256"] == hashlib.sha256(slider.read_bytes()).hexdigest()
    assert tree["hashes"]["sshs_model_hash"] == parts(slider)[1]["sshs_model_hash"]
    assert (tree["findings"], tree["range"], tree["metadata"]["ss_steps"]) == ([], None, "30")
    other = changed(slider, tmp_path / "a.safetensors", alphas_times(2.0), ss_leco_strength_range="-1..2")
    tree = inspected(capsys, other)
    assert tree["range"] == "-1..2"
    assert "changed after it was written" in tree["findings"][0]


def test_a_file_that_does_nothing_is_named_as_such(
    slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All up weights zero; a few of them zero is another finding, and numbers that are not finite one more."""
    tree = inspected(capsys, changed(slider, tmp_path / "idle.safetensors", nothing))
    assert tree["does_nothing"]
    assert run("inspect", tmp_path / "idle.safetensors") == 0
    assert "it does nothing" in capsys.readouterr().out
    key = next(key for key in parts(slider)[0] if key.endswith("lora_up.weight"))

    def one_changed(number: float) -> Path:
        return changed(slider, tmp_path / "one.safetensors", lambda t: {**t, key: torch.full_like(t[key], number)})

    tree = inspected(capsys, one_changed(0.0))
    assert (tree["does_nothing"], tree["findings"][0]) == (False, "1 of 84 layers do nothing: their change is zero")
    tree = inspected(capsys, one_changed(float("nan")))
    assert tree["not_finite"] == [key]
    assert "not finite" in tree["findings"][0]


class Evil:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.path,)


def test_pickles_are_read_as_weights_only(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A .pt of tensors is shown; one that would run code is refused, and runs none."""
    torch.save(parts(slider)[0], tmp_path / "lora.pt")
    assert inspected(capsys, tmp_path / "lora.pt")["layers"]["self-attention"]["layers"] == 28
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "was here")))
    assert run("inspect", tmp_path / "evil.pt") == 2
    assert not (tmp_path / "was here").exists()


def test_what_is_no_lora_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By what it is; never as a LoRA that does nothing, or is for another model."""
    save_file({"model.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"emb_params": torch.ones(1, 4)}, tmp_path / "word.safetensors")
    save_file({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 2)}, tmp_path / "half.safetensors")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "text.ckpt").write_text("some text")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "quantized.gguf").write_bytes(b"GGUF")
    for name, said in (
        ("model.safetensors", "this is a model: name it in a job"),
        ("word.safetensors", "this is a textual-inversion embedding: put it into the folder"),
        ("half.safetensors", "is broken: lora_unet_conv_in.lora_down.weight stands without its other factor"),
        ("list.pt", "is no LoRA: it holds no tensor at all"),
        ("pointer.safetensors", "is a Git LFS pointer, not the weights"),
        ("page.safetensors", "is a web page, not the weights"),
        ("text.ckpt", "cannot be read: it is no file that torch wrote"),
        ("picture.png", "is no file of weights, by its ending"),
        ("quantized.gguf", "this is a GGUF file: nothing here reads it"),
        ("nowhere.safetensors", "there is no "),
    ):
        for command in ("inspect", "calibrate", "evaluate"):
            assert run(command, tmp_path / name) == 2
            assert said in capsys.readouterr().err


def test_a_renamed_file_is_read_as_what_it_is(slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People call safetensors .pt; torch's own files under the name of safetensors are told by their content, too."""
    (tmp_path / "a.pt").write_bytes(slider.read_bytes())
    torch.save(parts(slider)[0], tmp_path / "b.safetensors")
    layers = inspected(capsys, slider)["layers"]
    assert inspected(capsys, tmp_path / "a.pt")["layers"] == layers
    assert run("inspect", tmp_path / "b.safetensors") == 2
    assert "it is a pickle under another name" in capsys.readouterr().err


def test_parts_that_are_not_read_are_named_and_counted(
    slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GLoRA alone is shown as one; beside LoRA layers it is a finding, and so is a scale that nothing tells."""
    foreign = {f"lora_unet_mid_block_attentions_0_proj_in.{part}.weight": torch.ones(2, 2) for part in ("a1", "a2")}
    save_file(foreign, tmp_path / "glora.safetensors")
    tree = inspected(capsys, tmp_path / "glora.safetensors")
    assert tree["layers"]["projections"]["networks"] == ["GLoRA"]
    assert any(finding.startswith("not read: 2 parts of") for finding in tree["findings"])
    assert not any("nothing" in finding for finding in tree["findings"])
    tensors = {key: tensor for key, tensor in parts(slider)[0].items() if not key.endswith("alpha")}
    save_file({**tensors, **foreign}, tmp_path / "both.safetensors")
    tree = inspected(capsys, tmp_path / "both.safetensors")
    assert any(finding.startswith("not read: 2 parts") for finding in tree["findings"])
    assert "84 layers tell no alpha: they are taken at scale 1, as diffusers and ComfyUI take them" in tree["findings"]


def test_a_bias_beside_the_factors_hides_no_norm(
    slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The norm is that of the LoRA and the bias together."""
    before = inspected(capsys, slider)["layers"]["projections"]["norm"]
    bias = {"lora_unet_mid_block_attentions_0_proj_in.diff_b": torch.full((4,), 3.0)}
    changed(slider, tmp_path / "bias.safetensors", lambda tensors: {**tensors, **bias})
    after = inspected(capsys, tmp_path / "bias.safetensors")["layers"]["projections"]
    assert after["norm"] == pytest.approx((before**2 + 36) ** 0.5, rel=1e-3)
    assert after["networks"] == ["LoRA", "bias"]


def test_numbers_that_are_not_finite_are_valid_json(
    slider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In weights and in alphas, nan and infinity."""
    for value in (float("nan"), float("inf"), -float("inf")):
        odd = changed(slider, tmp_path / "odd.safetensors", lambda t, v=value: {k: x * v for k, x in t.items()})
        tree = inspected(capsys, odd)
        assert len(tree["not_finite"]) == 3 * 84
        assert all(kind["norm"] is None and kind["alphas"] == [] for kind in tree["layers"].values())
