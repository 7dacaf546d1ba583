"""Runs the real ai-toolkit in this environment: stand-ins answer for packages that a run from prompts never calls.

Usage, in the host's folder: ``python ai_toolkit_stand_in.py run.py JOB.yaml ...`` or ``... -c CODE``.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = frozenset(
    {
        "albucore", "albumentations", "audioop", "av", "bitsandbytes", "controlnet_aux", "cv2", "dotenv", "einops",
        "kornia", "librosa", "lpips", "lycoris", "mutagen", "open_clip", "optimum", "prodigyopt", "pytorch_fid",
        "pytorch_wavelets", "skimage", "slugify", "timm", "toml", "torchao", "torchaudio", "torchcodec", "torchvision",
        "flatten_json", "k_diffusion", "omegaconf", "cleanfid", "scipy",
    }
)  # fmt: skip


class _Names(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


def _anything(name: str) -> Any:
    """A class of this name that can be subclassed, made, called and looked into, and does nothing."""
    body = {"__init__": lambda self, *a, **k: None, "__call__": lambda self, *a, **k: None}
    return _Names(name, (), body)


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class _Finder(MetaPathFinder, Loader):
    """Last on the list: whatever is installed is used."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in PACKAGES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__version__ = "0.0.0"  # type: ignore[attr-defined]


def install() -> None:
    """Put the stand-ins in place."""
    import diffusers.utils
    import torch
    import transformers.utils
    import yaml

    if not torch.cuda.is_available():
        # the host asks the device for its size wherever triton is installed; None is how Python says that it is not
        sys.modules["triton"] = None  # type: ignore[assignment]

    # these ask which packages there are; the answer must be the true one
    for module in (diffusers.utils, transformers.utils):
        for name in dir(module):
            if name.startswith("is_") and name.endswith("_available"):
                with suppress(Exception):
                    getattr(module, name)()
    sys.meta_path.append(_Finder())
    sys.modules.setdefault("oyaml", yaml)
    # diffusers raises at its import, since a package for video is missing
    sys.modules.setdefault("diffusers.pipelines.ltx2.export_utils", _StandIn("export_utils"))


if __name__ == "__main__":
    install()
    sys.path.insert(0, ".")
    del sys.argv[0]
    if sys.argv[0] == "-c":
        exec(sys.argv[1], {"__name__": "__main__"})
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
