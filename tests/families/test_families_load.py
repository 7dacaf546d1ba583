"""From a name to a model, or to one sentence about what is wrong; never to the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from models import CPU

from leco_plugin.errors import ModelError
from leco_plugin.families.load import load_model
from leco_plugin.tiny import MODEL_FOLDER


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the built-in model, to be damaged."""
    shutil.copytree(MODEL_FOLDER, tmp_path / "model")
    return tmp_path / "model"


def load(name: str | Path) -> None:
    load_model(str(name), dtype="fp32", device=CPU)


def refused(name: str | Path) -> str:
    """What is said where a model cannot be loaded: one line, and a way out."""
    with pytest.raises(ModelError) as caught:
        load(name)
    (problem,) = caught.value.problems
    assert "\n" not in problem.message
    assert problem.fix
    return problem.message


def test_the_built_in_model_and_its_folder_are_one(copy):
    """A diffusers folder is loaded by its path, with all weights as they are."""
    builtin = load_model("builtin:tiny", dtype="fp32", device=CPU)
    folder = load_model(str(copy), dtype="fp32", device=CPU)
    weights = dict(folder.module.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in builtin.module.named_parameters())
    assert folder.prediction_type == "epsilon"


def test_a_built_in_model_computes_in_one_thread(copy):
    """Whatever command loads it; how many threads other models get is left alone."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load(copy)
        assert torch.get_num_threads() == 2
        load("builtin:tiny")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_home_folder_may_be_abbreviated(copy, monkeypatch):
    """``~`` as in a shell."""
    monkeypatch.setenv("HOME", str(copy.parent))
    monkeypatch.setenv("USERPROFILE", str(copy.parent))
    assert load_model("~/model", dtype="fp32", device=CPU).family == "sd1"


def test_checkpointing_is_switched_on_where_asked(copy):
    """In training mode, the only one in which it works."""
    for asked in (False, True):
        module = load_model(str(copy), dtype="fp32", device=CPU, checkpointing=asked).module
        assert module.is_gradient_checkpointing is asked
        assert module.training is asked


def test_a_hub_id_that_is_out_of_reach_is_refused():
    """Offline, a model that is not in the cache does not exist."""
    message = refused("nobody/there-is-no-such-model")
    assert "there is no folder 'nobody/there-is-no-such-model' here" in message


@pytest.mark.parametrize("name", ["./no such folder", "/no/such/folder/at/all", "so many/parts/in/a/name", "..."])
def test_a_name_that_is_no_hub_id_is_refused_too(name):
    """Nothing of the client's own exceptions comes through."""
    assert repr(name) in refused(name)


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "notes.txt"])
def test_a_file_is_no_folder(tmp_path, name):
    """Single files are not loaded here, whether they exist or not."""
    if name == "notes.txt":
        (tmp_path / name).write_text("")
    assert "is not a diffusers folder" in refused(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    """By the file that is missing."""
    assert "is missing" in refused(tmp_path)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b"7", b""])
def test_broken_json_is_refused_by_its_file(copy, name, text):
    """Cut off, of another kind, or not text at all."""
    (copy / name).write_bytes(text)
    assert str(copy / name) in refused(copy)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_part_is_refused_by_its_file(copy, name):
    """A download that was broken off."""
    (copy / name).unlink()
    assert str(copy / name) in refused(copy)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_missing_or_broken_weights_are_refused(copy, damage):
    """They are found when the model is loaded; the folder is named."""
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    if damage == "cut":
        weights.write_bytes(data[: len(data) // 2])
    assert str(copy) in refused(copy)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_missing_text_encoder_is_refused_when_prompts_are_encoded(copy, part):
    """It is loaded for that only."""
    shutil.rmtree(copy / part)
    denoiser = load_model(str(copy), dtype="fp32", device=CPU)
    with pytest.raises(ModelError) as caught:
        denoiser.encode(["red"])
    assert str(copy / part) in str(caught.value)


def test_a_tokenizer_without_its_words_is_refused(copy):
    """transformers makes one that knows nothing, and every prompt would be the same."""
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (copy / "tokenizer" / name).unlink()
    denoiser = load_model(str(copy), dtype="fp32", device=CPU)
    with pytest.raises(ModelError) as caught:
        denoiser.encode(["red"])
    assert str(copy / "tokenizer") in str(caught.value)


def changed(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
        {
            "_class_name": "PixArtSigmaPipeline",
            "unet": None,
            "transformer": ["diffusers", "PixArtTransformer2DModel"],
        },
        {"_class_name": "DeepFloydPipeline", "text_encoder": ["transformers", "T5EncoderModel"]},
    ],
)
def test_a_folder_of_another_family_is_refused(copy, index):
    """By the name of its pipeline."""
    changed(copy, "model_index.json", **index)
    assert f"holds a {index['_class_name']}" in refused(copy)


def test_an_inpainting_model_is_refused(copy):
    """Nine channels in, four of them latents."""
    changed(copy, "unet/config.json", in_channels=9)
    assert str(copy) in refused(copy)
