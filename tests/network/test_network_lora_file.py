"""The LoRA file: loaded by diffusers as trained, named and hashed as sd-scripts does, and never half written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
import struct
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from models import CPU, randn, randomize
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from leco_plugin.atomic import write_atomically
from leco_plugin.errors import NetworkError
from leco_plugin.families.load import load_model
from leco_plugin.network.lora_file import kohya_tensors, write_lora
from leco_plugin.network.lora_read import LoraFile
from leco_plugin.network.peft_lora import PeftLora
from leco_plugin.tiny import MODEL_FOLDER

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def parts(down: Tensor, up: Tensor, alpha: float = 1.0) -> dict[str, Tensor]:
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}


def layers(rank: int = 2, width: int = 6, alpha: float = 1.0) -> dict[str, dict[str, Tensor]]:
    return {LAYER: parts(randn(rank, width), randn(width, rank, seed=1), alpha)}


def written(folder: Path, some: dict[str, dict[str, Tensor]], dtype: str = "float32", **metadata: str) -> Path:
    write_lora(folder / "lora.safetensors", kohya_tensors(some), dtype, metadata)
    return folder / "lora.safetensors"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_diffusers_loads_what_was_trained(tmp_path, precision):
    """The pipeline's UNet answers as the network does, at every strength, with an alpha that is not the rank."""
    unet = load_model("builtin:tiny", dtype="fp32", device=CPU).module
    network = PeftLora(unet, rank=4, alpha=1.5, seed=0)
    randomize(network.parameters(), std=0.1)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(getattr(torch, precision)).float()
    network.save(tmp_path / "lora.safetensors", precision, {"ss_output_name": "lora"})
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL_FOLDER, safety_checker=None)
    pipeline.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="lora")
    asked = randn(2, 4, 8, 8), torch.tensor(500), randn(2, 77, 64, seed=1)
    answers = []
    for strength in (-1.0, 0.0, 0.5, 1.0):
        pipeline.set_adapters(["lora"], [strength])
        with torch.no_grad(), network.multiplier(strength):
            expected = unet(*asked).sample
            torch.testing.assert_close(pipeline.unet(*asked).sample, expected, rtol=1e-5, atol=1e-5)
        answers.append(expected)
    assert all((one - answers[1]).abs().max() > 0.01 for one in (answers[0], answers[2], answers[3]))


def test_keys_are_those_of_sd_scripts(tmp_path):
    """Module paths with underscores, down and up weights, and always an alpha."""
    tensors = load_file(written(tmp_path, layers(alpha=0.5)))
    assert sorted(tensors) == [f"{KEY}.alpha", f"{KEY}.lora_down.weight", f"{KEY}.lora_up.weight"]
    assert (tensors[f"{KEY}.alpha"].item(), tensors[f"{KEY}.alpha"].shape) == (0.5, ())
    assert tensors[f"{KEY}.lora_down.weight"].shape == (2, 6)
    assert tensors[f"{KEY}.lora_up.weight"].shape == (6, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_all_tensors_have_the_precision_asked_for(tmp_path, dtype):
    """Alpha too, as sd-scripts has it."""
    assert {t.dtype for t in load_file(written(tmp_path, layers(), dtype)).values()} == {getattr(torch, dtype)}


def test_the_model_hash_is_over_all_that_follows_the_header(tmp_path):
    """Civitai and Forge look a file up by it."""
    path = written(tmp_path, layers(), ss_seed="5")
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    assert metadata(path)["sshs_model_hash"] == hashlib.sha256(data[header:]).hexdigest()


def test_the_model_hash_does_not_depend_on_what_is_said_about_the_model(tmp_path):
    """The name may change, the weights may not."""
    one = metadata(written(tmp_path, layers(), ss_output_name="one"))["sshs_model_hash"]
    two = metadata(written(tmp_path, layers(), ss_output_name="two"))["sshs_model_hash"]
    other = metadata(written(tmp_path, layers(rank=3), ss_output_name="one"))["sshs_model_hash"]
    assert one == two != other


def test_a_small_file_has_no_legacy_hash(tmp_path):
    """It would be the hash of nothing, the same for every small file, and tie it to strangers."""
    assert "sshs_legacy_hash" not in metadata(written(tmp_path, layers()))


def sd_scripts_file(tensors: dict[str, torch.Tensor], training: dict[str, str]) -> bytes:
    """The file that sd-scripts hashes: the tensors as they lie, under the training metadata alone."""
    start, header = 0, {"__metadata__": dict(sorted(training.items()))}
    for key, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        shape = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, start + size]}
        header[key] = shape  # type: ignore[assignment]
        start += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.numpy().tobytes() for tensor in tensors.values())


@pytest.mark.parametrize("width", [70_000, 150_000], ids=["ends within the window", "goes on behind it"])
def test_the_legacy_hash_of_a_large_file_is_that_of_sd_scripts(tmp_path, width):
    """Eight digits of the SHA-256 over 64 KiB from 1 MiB on, of the file with its training metadata only."""
    big = {LAYER: parts(randn(2, width), randn(2, 2, seed=1))}
    if width == 70_000:
        big["mid_block.attentions.0.proj_in"] = parts(randn(2, 61_500, 1, 1), randn(2, 2, 1, 1))
    path = written(tmp_path, big, ss_seed="5", **{"modelspec.title": "not training metadata"})
    with safe_open(path, "pt") as file:
        names = list(file.offset_keys())
    stored = load_file(path)
    plain = sd_scripts_file({name: stored[name] for name in names}, {"ss_seed": "5"})
    window = plain[0x100000 : 0x100000 + 0x10000]
    assert 0 < len(window) <= 0x10000
    assert metadata(path)["sshs_legacy_hash"] == hashlib.sha256(window).hexdigest()[:8]


def test_equal_arguments_give_equal_bytes(tmp_path):
    """Whatever order the metadata came in."""
    one = written(tmp_path, layers(), ss_a="1", ss_b="2", ss_c="3").read_bytes()
    two = written(tmp_path, layers(), ss_c="3", ss_a="1", ss_b="2").read_bytes()
    assert one == two


def test_metadata_comes_back_as_it_was(tmp_path):
    """Any text, and nothing but what was said and the hash."""
    said = {"ss_leco_pairs": '[{"target": "ré\\n日本"}]', "ss_output_name": "a"}
    found = metadata(written(tmp_path, layers(), **said))
    assert {**said, "sshs_model_hash": found["sshs_model_hash"]} == found


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (float("inf"), "float32"), (1e5, "float16")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, value, dtype):
    """Named by their key; 100,000 is no float16. What was there stays."""
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"old")
    broken = layers()
    broken[LAYER]["lora_up.weight"][1, 1] = value
    with pytest.raises(NetworkError, match=rf"{KEY}\.lora_up\.weight is not finite"):
        write_lora(path, kohya_tensors(broken), dtype, {})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_as_a_whole(tmp_path):
    """With its folder made, and readable as new files are."""
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    plain = tmp_path / "plain"
    plain.touch()
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_is_written_to_and_never_replaced(tmp_path):
    """As /dev/stdout is, which people name as a file."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"data")
    assert os.read(reader, 10) == b"data"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"data")


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken):
    """Disk full, or the machine's owner pressed Ctrl-C."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def refused(path: Path) -> str:
    with pytest.raises(NetworkError) as caught:
        LoraFile.read(path)
    (problem,) = caught.value.problems
    assert str(path) in problem.message
    assert problem.fix
    return problem.message


def test_a_file_that_is_not_there_or_not_safetensors_is_refused(tmp_path):
    """Garbage, a folder, an empty file; and a pickle is never opened as one."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "garbage.safetensors").write_bytes(b"garbage" * 10)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "half.safetensors").write_bytes(written(tmp_path, layers()).read_bytes()[:-20])
    for name in ("garbage", "empty", "folder", "pickle", "half", "missing"):
        said = {"folder": "a folder with no LoRA", "missing": "there is no "}.get(name, "cannot be read")
        assert said in refused(tmp_path / f"{name}.safetensors")
    assert not (tmp_path / "sprung").exists()
