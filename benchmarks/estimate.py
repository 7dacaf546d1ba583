"""Compare the estimate of `leco check` with a second way to count, on full-size models, without weights or a GPU.

The same classes run on torch's fake tensors on the CPU, through torch's own autocast and attention, with every storage
counted by a finalizer of its own; norms are computed in float32, as on CUDA. Models are folders or hub ids of which the
configs are on this machine, or sd1, sd2, sdxl.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import leco_plugin.families
from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.steps import Call, Shape
from leco_plugin.estimate.trace import Traced
from leco_plugin.families import meta

CONFIGS = Path(leco_plugin.families.__path__[0]) / "configs"
SIDES = {"sd1": (512,), "sd2": (768,), "sdxl": (1024,)}
FLOW_SIDES = (512, 1024)
ROWS = (0.0, 0.0, 1.0, 1.0)
"""Strengths of the LoRA in the teacher's call."""


class Counted(TorchDispatchMode):
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
def norms_as_on_cuda(dtype: str) -> Iterator[None]:
    """In float32 under autocast, which keeps half precision on a CPU."""

    def in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            return norm(*(value.float() if isinstance(value, Tensor) else value for value in args))

        return call

    norms = {name: in_float32(getattr(functional, name)) for name in ("group_norm", "layer_norm")}
    with mock.patch.multiple(functional, **({} if dtype == "fp32" else norms)):
        yield


def measure(job: JobConfig, shape: Shape) -> tuple[int, int, int]:
    """Bytes at most in the teacher's call, kept for the student's backward pass, and at most in both passes."""
    with FakeTensorMode(), norms_as_on_cuda(job.train.dtype):
        # all is made of fake tensors from the beginning, which modules cannot swap; the network is float32 anyway
        with (
            mock.patch.object(meta, "_META", torch.device("cpu")),
            mock.patch.object(nn.Module, "to", lambda module, *to, **more: module),
        ):
            traced = Traced(job)
        denoiser, network = traced.model.denoiser, traced.network
        if job.train.gradient_checkpointing:
            traced.model.checkpoint()

        def call(count: int) -> Tensor:
            latents, times, sizes = torch.empty(count, *shape), torch.empty(count), torch.empty(count, 6)
            return denoiser.predict(latents, times, traced.model.text.rows([0] * count), sizes)

        tensors = [*denoiser.module.parameters(), *denoiser.module.buffers(), *(p.grad for p in network.parameters())]
        known = {tensor.untyped_storage()._cdata for tensor in tensors}
        with Counted(known) as walking, torch.no_grad(), network.multiplier(ROWS):
            call(len(ROWS))
        with Counted(known) as training, network.multiplier(1.0):
            predicted = call(1)
            kept = training.now
            predicted.float().pow(2).mean().backward()
    return walking.most, kept, training.most


def estimated(job: JobConfig, shape: Shape) -> tuple[int, int, int]:
    """The same as `leco check` has it."""
    traced, again = Traced(job), job.train.gradient_checkpointing
    walking = traced.cost(Call(shape, len(ROWS), strength=ROWS))
    training = traced.cost(Call(shape, 1, gradient=True), again=again)
    return walking.most, training.kept, training.most


def configs_of(family: str, folder: Path) -> Path:
    """A folder in diffusers layout with the configs of one of our own files."""
    parts = json.loads((CONFIGS / f"{family}.json").read_text("utf-8"))
    files = {"unet/config.json": parts["unet"], "scheduler/scheduler_config.json": parts["scheduler"]}
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    kinds = ("CLIPTextModel", "CLIPTextModelWithProjection")
    for name, kind, config in zip(("text_encoder", "text_encoder_2"), kinds, parts["text_encoders"], strict=False):
        index[name], files[f"{name}/config.json"] = ["transformers", kind], config
    for name, tree in {**files, "model_index.json": index}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(tree), "utf-8")
    return folder


def compare(model: str, sides: tuple[int, ...], precisions: list[str]) -> None:
    """Print a line of the table for each size, precision and way to keep activations."""
    for side, dtype, again in product(sides, precisions, (False, True)):
        pair = {"target": "a", "positive": "b", "resolution": (side, side)}
        job = JobConfig.model_validate(
            {
                "name": "measured",
                "model": {"name_or_path": model},
                "train": {"dtype": dtype, "gradient_checkpointing": again},
                "pairs": (pair,),
            }
        )
        shape = Traced(job).model.denoiser.latent_shape(side, side)
        began = time.process_time()
        ours = estimated(job, shape)
        seconds = time.process_time() - began
        cells = [f"{m / 2**20:.0f} / {e / 2**20:.0f}" for m, e in zip(measure(job, shape), ours, strict=True)]
        name = f"{Path(model).name}, {side} pixels"
        print(f"| {name} | {dtype} | {'yes' if again else 'no'} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)


def main() -> None:
    """Print a table of MiB, counted / estimated, and the seconds of the estimate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"{', '.join(SIDES)}, folders or hub ids")
    parser.add_argument("--precision", nargs="*", default=["bf16", "fp32"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print("| model | precision | checkpointing | teacher, 4 rows | student keeps, 1 row | student at most | s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models or list(SIDES):
            known = name in SIDES
            model = str(configs_of(name, Path(scratch) / name)) if known else name
            compare(model, SIDES.get(name, FLOW_SIDES), options.precision)


if __name__ == "__main__":
    main()
