"""How prompts are read: the layer, long prompts, learned words."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, randn
from safetensors.torch import save_file
from small_models import FIRST_WIDTH, SECOND_WIDTH, model_folder
from torch import Tensor

from leco_plugin.config.schema import ModelConfig
from leco_plugin.errors import ModelError
from leco_plugin.families.load import load_model

LONG = "x" * 100
"""One token a letter: 75 of them fit into a chunk."""


def load(folder: Path, **model: Any) -> Any:
    return load_model(ModelConfig(name_or_path=str(folder), **model), dtype="fp32", device=CPU)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return model_folder("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return model_folder("sdxl", tmp_path_factory.mktemp("sdxl"))


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_counts_layers_from_the_last(clip_skip: int, sd1: tuple[Path, Any]):
    """clip_skip 1 is the last layer; 2 is what an encoder that lacks its last layer gives."""
    folder, pipeline = sd1
    ours = load(folder, clip_skip=clip_skip).encode(["red"]).text
    shorter = copy.deepcopy(pipeline.text_encoder)
    shorter.encoder.layers = shorter.encoder.layers[: 4 - clip_skip]
    ids = pipeline.tokenizer("red", padding="max_length", max_length=77, return_tensors="pt").input_ids

    torch.testing.assert_close(ours, shorter(ids).last_hidden_state, rtol=0, atol=1e-6)


def test_a_layer_that_is_not_there_is_refused(sd1: tuple[Path, Any], sdxl: tuple[Path, Any]):
    """A text encoder has so many layers; and SDXL reads one layer only."""
    with pytest.raises(ModelError, match="too few"):
        load(sd1[0], clip_skip=4).encode(["red"])
    with pytest.raises(ModelError, match="last but one"):
        load(sdxl[0], clip_skip=1).encode(["red"])
    assert load(sdxl[0], clip_skip=2).encode(["red"]).text.shape == (1, 77, FIRST_WIDTH + SECOND_WIDTH)


def test_what_does_not_fit_is_cut_and_shown(sd1: tuple[Path, Any]):
    """Of a prompt that is too long the end is cut off, and the denoiser tells which part that is."""
    denoiser = load(sd1[0])
    fits, long = "y" * 75, "y" * 75 + "zz top"
    denoiser.encode([fits, long])

    assert denoiser.truncated([fits, long]) == [long]
    assert denoiser.cut(long).replace(" ", "") == "zztop"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_long_prompts_are_chunks_laid_end_to_end(family: str, sd1: tuple[Path, Any], sdxl: tuple[Path, Any]):
    """150 tokens are two prompts of 75 that are encoded by themselves; the pooled text is the first one's."""
    folder, _ = sd1 if family == "sd1" else sdxl
    long, short = load(folder, max_token_length=150), load(folder)
    first, second = "x" * 75, "y" * 25
    ours = long.encode([f"{first} {second}"])
    parts = short.encode([first, second])

    assert long.truncated([f"{first} {second}"]) == []
    torch.testing.assert_close(ours.text[0], torch.cat([parts.text[0], parts.text[1]]))
    if family == "sdxl":
        torch.testing.assert_close(ours.pooled[0], parts.pooled[0])


def test_all_prompts_are_as_long_as_the_longest_needs(sd1: tuple[Path, Any]):
    """A batch has one length: short prompts get empty chunks, and only as many as are needed."""
    denoiser = load(sd1[0], max_token_length=225)

    assert denoiser.encode(["red", LONG]).text.shape[1] == 2 * 77
    assert denoiser.encode(["red"]).text.shape[1] == 77
    both = denoiser.encode(["red", LONG]).text[0]
    torch.testing.assert_close(both[77:], load(sd1[0]).encode([""]).text[0])


def write_embedding(folder: Path, name: str, tables: dict[str, Tensor]) -> None:
    """One file in each of the layouts that are about."""
    if name.endswith(".safetensors"):
        save_file(tables, folder / name)
    else:
        torch.save({"string_to_param": tables, "name": "any", "step": 3}, folder / name)


@pytest.mark.parametrize("name", ["mystyle.pt", "mystyle.safetensors"])
def test_a_word_that_names_a_file_becomes_its_vectors(name: str, sd1: tuple[Path, Any], tmp_path: Path):
    """Two learned vectors that are those of the letters "r" and "d" read as those letters do."""
    folder, pipeline = sd1
    table, tokenizer = pipeline.text_encoder.get_input_embeddings().weight, pipeline.tokenizer
    letters = tokenizer("r d", add_special_tokens=False).input_ids
    write_embedding(tmp_path, name, {"*": table[letters].clone()})
    write_embedding(tmp_path, "unused.pt", {"*": randn(1, 5)})
    denoiser = load(folder, embeddings_folder=tmp_path)

    learned = denoiser.encode(["a MyStyle, b", "a mystyles, b"]).text
    spelled = load(folder).encode(["a r d, b", "a mystyles, b"]).text
    torch.testing.assert_close(learned, spelled)


def test_sdxl_has_vectors_for_both_encoders(sdxl: tuple[Path, Any], tmp_path: Path):
    """The table clip_l goes to the first text encoder and clip_g to the second; pooling finds the prompt's end."""
    folder, pipeline = sdxl
    rows = [encoder.get_input_embeddings().weight for encoder in (pipeline.text_encoder, pipeline.text_encoder_2)]
    letter = pipeline.tokenizer("r", add_special_tokens=False).input_ids
    write_embedding(
        tmp_path, "word.safetensors", {"clip_g": rows[1][letter].clone(), "clip_l": rows[0][letter].clone()}
    )
    learned = load(folder, embeddings_folder=tmp_path).encode(["a word b"])
    spelled = load(folder).encode(["a r b"])

    torch.testing.assert_close(learned.text, spelled.text)
    torch.testing.assert_close(learned.pooled, spelled.pooled)


def test_an_embedding_of_another_model_is_refused(sd1: tuple[Path, Any], sdxl: tuple[Path, Any], tmp_path: Path):
    """Vectors of another width, a table too few, a file that needs code to be read, a folder that is not there."""
    write_embedding(tmp_path, "wide.pt", {"*": randn(1, 9)})
    (tmp_path / "broken.pt").write_bytes(b"no such thing")
    for folder, prompt, words in (
        (sd1[0], "wide", "vectors of 9 numbers, not of 16"),
        (sdxl[0], "wide", "2 text encoder"),
        (sd1[0], "broken", "without running code"),
    ):
        with pytest.raises(ModelError, match=words):
            load(folder, embeddings_folder=tmp_path).encode([prompt])
    with pytest.raises(ModelError, match="is no folder"):
        load(sd1[0], embeddings_folder=tmp_path / "none").encode(["red"])
