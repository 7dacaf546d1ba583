"""Textual-inversion embeddings: files that give a word of the prompt learned vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from leco_plugin.errors import ModelError
from leco_plugin.families.tokens import word_pattern

SUFFIXES = (".bin", ".pt", ".safetensors")
_ENCODER_KEYS = ("clip_l", "clip_g")


def read_embeddings(folder: Path | None, prompts: Sequence[str], encoders: int) -> list[dict[str, Tensor]]:
    """For each of ``encoders`` text encoders: float32 vectors (count, width) of the words in ``prompts``.

    A word is a file's name in ``folder`` without its ending; files that no prompt names are not read. Raises
    ModelError for a folder that is not there, and for a file that cannot be read or is for another kind of model.
    """
    found: list[dict[str, Tensor]] = [{} for _ in range(encoders)]
    for word, path in used_embeddings(folder, prompts).items():
        for number, table in enumerate(_by_encoder(path, _read(path), encoders)):
            found[number][word] = table
    return found


def add_vectors(encoder: nn.Module, vectors: Mapping[str, Tensor]) -> int:
    """Append the vectors to the encoder's table of tokens, in order; the number of rows that it had before.

    Raises ModelError for vectors of another width than the table's.
    """
    table: Any = encoder.get_input_embeddings()  # type: ignore[operator]
    rows, width = table.weight.shape
    for word, vector in vectors.items():
        if vector.shape[-1] != width:
            raise _other_model(f"the embedding {word!r} has vectors of {vector.shape[-1]} numbers, not of {width}")
    if vectors:
        extra = torch.cat(list(vectors.values())).to(table.weight)
        table.weight = nn.Parameter(torch.cat([table.weight.data, extra]), requires_grad=False)
    return int(rows)


def used_embeddings(folder: Path | None, prompts: Sequence[str]) -> dict[str, Path]:
    """The files in ``folder`` that ``prompts`` name, by their names in small letters."""
    if folder is None:
        return {}
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ModelError(f"embeddings_folder {folder} is no folder", fix="name the folder that your embeddings are in")
    # of files that differ in their ending only, .safetensors comes last and wins
    files = {path.stem.lower(): path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    if not files:
        return {}
    pattern = word_pattern(files)
    words = dict.fromkeys(word.lower() for prompt in prompts for word in pattern.findall(prompt))
    return {word: files[word] for word in words}


def _read(path: Path) -> dict[str, Tensor]:
    """Vectors (count, width) by key, from the layouts of A1111, diffusers and the SDXL trainers."""
    try:
        if path.suffix.lower() == ".safetensors":
            tree: Any = load_file(path)
        else:
            tree = torch.load(path, map_location="cpu", weights_only=True)
    # what a damaged or foreign file makes torch raise is not one kind of error
    except Exception as error:
        raise ModelError(
            f"the embedding {path} cannot be read without running code from it", fix="get it as .safetensors"
        ) from error
    # A1111 keeps the vectors one level down
    tree = tree.get("string_to_param", tree) if isinstance(tree, dict) else {}
    tables = {str(key): value.float() for key, value in tree.items() if isinstance(value, Tensor)}
    if not tables or any(table.ndim not in (1, 2) for table in tables.values()):
        raise ModelError(f"{path} holds no textual-inversion vectors", fix="move it out of embeddings_folder")
    return {key: table.reshape(-1, table.shape[-1]) for key, table in tables.items()}


def _by_encoder(path: Path, tables: Mapping[str, Tensor], encoders: int) -> list[Tensor]:
    """The table of each encoder: a single one whatever its key, several by theirs."""
    if encoders == 1 and len(tables) == 1:
        return list(tables.values())
    if encoders > 1 and all(key in tables for key in _ENCODER_KEYS[:encoders]):
        return [tables[key] for key in _ENCODER_KEYS[:encoders]]
    raise _other_model(
        f"the embedding {path.name} has {len(tables)} table(s), and the model {encoders} text encoder(s)"
    )


def _other_model(what: str) -> ModelError:
    return ModelError(what, fix="use an embedding made for this kind of model, or take the word out of the prompts")
