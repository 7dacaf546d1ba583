"""Compiling the blocks of a model, and keeping what comes of it for the next run."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.fx.experimental import _config

_FOLDER, _TEMPORARY = "TORCHINDUCTOR_CACHE_DIR", "torchinductor_"
_MOST_VARIANTS = 256
"""Of a block's code: for each kind of block, with a gradient or without, at strength 0 or not, for one row or several.
Beyond torch's own limit of 8 it would go on uncompiled, and say so to nobody."""


def compile_blocks(module: nn.Module, backend: str) -> None:
    """Have each block that the model's class repeats compiled, at its first call, when the LoRA is on.

    One block stands for all its like, so this takes a fraction of the time that a whole model takes; a model whose
    class names no such block is compiled whole.
    """
    # torch's own choice, which it writes there itself at times, is emptied with all that is temporary
    if Path(os.environ.get(_FOLDER, _TEMPORARY)).name.startswith(_TEMPORARY):
        os.environ[_FOLDER] = str(Path(torch.hub.get_dir()).parent / "inductor")
    torch._dynamo.config.cache_size_limit = _MOST_VARIANTS
    if hasattr(_config, "use_duck_shape"):
        # equal numbers of rows and of tokens are chance, and not worth a kernel
        _config.use_duck_shape = False
    # rows differ from call to call; and which kernels a run comes to must not depend on where it was resumed
    how: dict[str, Any] = {"backend": backend, "dynamic": True}
    if getattr(module, "_repeated_blocks", None):
        cast(Any, module).compile_repeated_blocks(**how)
    else:
        module.compile(**how)


@dataclass(frozen=True)
class Compiled:
    """What of a model is compiled, once a network is attached."""

    module: nn.Module
    others: str
    """What else the kernels depend on."""
    kept: bool = True
    """Whether the compiler keeps them in the folder."""

    @property
    def blocks(self) -> list[nn.Module]:
        """Its blocks, or itself; none where it comes from a plugin that does not compile."""
        return [one for one in self.module.modules() if getattr(one, "_compiled_call_impl", None) is not None]

    @property
    def kinds(self) -> set[tuple[object, ...]]:
        """The blocks that differ: each of these is compiled."""
        return {(type(one).__name__, *((p.shape, p.dtype) for p in one.parameters())) for one in self.blocks}

    def __str__(self) -> str:
        """For the start of a run."""
        if not self.blocks:
            return "nothing: the plugin that loads this model does not do it"
        # half a minute a kind, by benchmarks/README.md
        kinds = len(self.kinds)
        what = f"{len(self.blocks)} blocks of {kinds} kinds"
        if self.kept and self._note.exists():
            return f"{what}, from {os.environ[_FOLDER]}, where an earlier run left them"
        later = f"; the next run has them from {os.environ[_FOLDER]}" if self.kept else ""
        return f"{what} at their first calls, which takes about {-(-kinds // 2)} min{later}"

    def keep(self) -> None:
        """Note that they have been compiled; that it cannot be noted is no reason to stop."""
        if self.kept and self.blocks:
            with suppress(OSError):
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._note.touch()

    @property
    def _note(self) -> Path:
        device = next(self.blocks[0].parameters()).device
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        told = repr((torch.__version__, where, sorted(map(str, self.kinds)), self.others))
        return Path(os.environ[_FOLDER], "leco", hashlib.sha256(told.encode()).hexdigest())
