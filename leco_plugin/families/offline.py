"""What a single-file model leaves out: the configs of its parts, and CLIP's tokenizer."""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from leco_plugin.families.source import Family

_FOLDER = Path(__file__).parent / "configs"
_START, _END = "<|startoftext|>", "<|endoftext|>"


@functools.lru_cache
def configs(family: Family) -> Mapping[str, Any]:
    """Configs of the UNet, VAE, text encoders and scheduler, and each tokenizer's padding."""
    tree: dict[str, Any] = json.loads((_FOLDER / f"{family}.json").read_text("utf-8"))
    return tree


def clip_tokenizer(pad: str) -> CLIPTokenizer:
    """CLIP's tokenizer with this padding; all Stable Diffusion models have the same vocabulary."""
    merges = gzip.decompress((_FOLDER / "clip_merges.txt.gz").read_bytes()).decode("utf-8")
    # versions of transformers differ in how a tokenizer is made in memory, and agree on how it is read from files
    with tempfile.TemporaryDirectory() as folder:
        settings = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": pad, "model_max_length": 77}
        files = {
            "vocab.json": json.dumps(_vocabulary(merges.splitlines())),
            "merges.txt": f"#version: 0.2\n{merges}",
            "tokenizer_config.json": json.dumps({**settings, "tokenizer_class": "CLIPTokenizer"}),
        }
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _vocabulary(merges: list[str]) -> dict[str, int]:
    """Bytes, bytes at the end of a word, merged pairs, then start and end, numbered from 0."""
    # a letter for each byte, as GPT-2 writes them
    letters = [*bytes_to_unicode().values()]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    return {word: number for number, word in enumerate([*words, _START, _END])}
