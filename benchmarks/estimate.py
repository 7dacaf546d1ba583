"""Compare the estimate of `leco check` with what torch would hold, on full-size models, without weights or a GPU.

The real UNet and the real LoRA run on fake tensors, which have shapes and lifetimes but no numbers; every storage
that an operation makes is counted until it is let go of. Norms are computed in float32 under autocast, as on CUDA.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import leco_plugin.families
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.estimate.memory import Adapter, kept_bytes, working_bytes
from leco_plugin.estimate.unet import unet_model
from leco_plugin.network.peft_lora import PeftLora

CONFIGS = Path(leco_plugin.families.__path__[0]) / "configs"
SIDES = {"sd1": 64, "sd2": 96, "sdxl": 128}
RANK, TOKENS = 4, 77


class Live(TorchDispatchMode):
    """Bytes that operations have made and that are still held, now and at most."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self._seen, self.now, self.most = dict.fromkeys(known, 0), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place not in self._seen:
            self._seen[place] = size
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._remove, place)

    def _remove(self, place: int) -> None:
        self.now -= self._seen.pop(place)


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """CUDA's rules on CPU tensors."""

    def in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, shape, weight=None, bias=None, eps=1e-5: norm(
            x.float(), shape, weight.float(), bias.float(), eps
        )

    if dtype == torch.float32:
        yield
        return
    norms = {name: in_float32(getattr(functional, name)) for name in ("group_norm", "layer_norm")}
    with mock.patch.multiple(functional, **norms), torch.autocast("cpu", dtype=dtype):
        yield


def measure(
    config: dict[str, Any], side: int, network: NetworkConfig, dtype: torch.dtype, *, checkpointing: bool
) -> tuple[int, int, int]:
    """Bytes at most without gradient, kept for the backward pass, and at most in both passes."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).to(dtype).requires_grad_(False)
        PeftLora(unet, rank=RANK, alpha=1.0, seed=0)
    if checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    with FakeTensorMode(), autocast(dtype):
        for module in unet.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    fake = torch.empty(weight.shape, dtype=weight.dtype)
                    module._parameters[name] = nn.Parameter(fake, requires_grad=weight.requires_grad)
        inputs = (torch.empty(1, 4, side, side, dtype=dtype), torch.zeros(1))
        text = torch.empty(1, TOKENS, config["cross_attention_dim"], dtype=dtype)
        added = {"text_embeds": torch.empty(1, 1280, dtype=dtype), "time_ids": torch.zeros(1, 6, dtype=dtype)}
        known = {tensor.untyped_storage()._cdata for tensor in (*unet.parameters(), *inputs, text, *added.values())}
        with torch.no_grad(), Live(known) as walking:
            unet(*inputs, text, added_cond_kwargs=added, return_dict=False)
        torch.clear_autocast_cache()
        with Live(known) as training:
            predicted = unet(*inputs, text, added_cond_kwargs=added, return_dict=False)[0]
            kept = training.now
            predicted.float().pow(2).mean().backward()
    return walking.most, kept, training.most


def main() -> None:
    """Print a table of MiB, measured / estimated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help=", ".join(SIDES))
    chosen = parser.parse_args().families or list(SIDES)
    logging.set_verbosity_error()
    print("| model, one row | network | precision | checkpointing | without gradient | kept for backward | at most |")
    print("|---|---|---|---|---|---|---|")
    for family, dtype, checkpointing in product(chosen, (torch.bfloat16, torch.float32), (False, True)):
        config = json.loads((CONFIGS / f"{family}.json").read_text("utf-8"))["unet"]
        side, network = SIDES[family], NetworkConfig(linear=RANK)
        found = measure(config, side, network, dtype, checkpointing=checkpointing)
        model, adapter = unet_model(config, side, side, TOKENS), Adapter(network, RANK)
        assert model is not None
        kept, working = kept_bytes(model, adapter, 1, dtype.itemsize, checkpointing=checkpointing)
        once, each = working_bytes(model, adapter, dtype.itemsize)
        cells = [
            f"{m / 2**20:.0f} / {e / 2**20:.0f}"
            for m, e in zip(found, (once + each, kept, once + kept + working), strict=True)
        ]
        print(
            f"| {family}, {8 * side} pixels | {network.type} | {str(dtype)[6:]} | {'yes' if checkpointing else 'no'} | "
            f"{' | '.join(cells)} |"
        )


if __name__ == "__main__":
    main()
