"""The optimizers that have a name of their own, and the package that each comes from; imports none of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from leco_plugin.config.blame import refuse
from leco_plugin.config.findings import did_you_mean, shorten

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class NamedOptimizer:
    """Where an optimizer is found, and what makes it the one that its name promises."""

    path: str
    """`module.Class`."""
    package: str = ""
    """What pip installs it from; empty where it is always there."""
    params: Mapping[str, bool | float] = field(default_factory=dict)
    """Parameters that are set unless the user sets them."""
    finds_its_rate: bool = False
    """Whether `lr` is a factor, usually 1, on a rate that the optimizer works out itself."""


def _of(package: str, module: str, *classes: str, finds_its_rate: bool = False) -> dict[str, NamedOptimizer]:
    return {
        name.lower(): NamedOptimizer(f"{module}.{name}", package, finds_its_rate=finds_its_rate) for name in classes
    }


OPTIMIZERS: Mapping[str, NamedOptimizer] = {
    **_of("", "torch.optim", "AdamW", "Adam", "SGD", "RAdam", "NAdam", "Adagrad", "RMSprop"),
    "sgdnesterov": NamedOptimizer("torch.optim.SGD", params={"nesterov": True, "momentum": 0.9}),
    **_of("bitsandbytes", "bitsandbytes.optim", "AdamW8bit", "Adam8bit", "Lion8bit", "AdEMAMix8bit"),
    **_of("bitsandbytes", "bitsandbytes.optim", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "PagedLion8bit"),
    **_of("bitsandbytes", "bitsandbytes.optim", "PagedAdEMAMix8bit"),
    "sgdnesterov8bit": NamedOptimizer(
        "bitsandbytes.optim.SGD8bit", "bitsandbytes", {"nesterov": True, "momentum": 0.9}
    ),
    **_of("lion-pytorch", "lion_pytorch", "Lion"),
    # transformers' own defaults ignore `lr`, which a user who sets it does not expect
    "adafactor": NamedOptimizer(
        "transformers.optimization.Adafactor",
        params={"relative_step": False, "scale_parameter": False, "warmup_init": False},
    ),
    **_of("prodigyopt", "prodigyopt", "Prodigy", finds_its_rate=True),
    **_of("dadaptation", "dadaptation", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", finds_its_rate=True),
    **_of("dadaptation", "dadaptation", "DAdaptLion", "DAdaptSGD", finds_its_rate=True),
    **_of("dadaptation", "dadaptation.experimental", "DAdaptAdamPreprint", "DAdaptAdanIP", finds_its_rate=True),
    "dadaptation": NamedOptimizer(
        "dadaptation.experimental.DAdaptAdamPreprint", "dadaptation", finds_its_rate=True
    ),
    **_of("schedulefree", "schedulefree", "AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"),
}  # fmt: skip


_WIDE = ("adafactor", "lion", "sgd", "sgdnesterov")


def fits_fp16(name: str) -> bool:
    """Whether it trains fp16 weights; others keep squares of gradients in the weights' precision, where they are 0."""
    known = OPTIMIZERS.get(name)
    return known is None or known.package == "bitsandbytes" or name in _WIDE


def named_optimizer(name: str) -> NamedOptimizer:
    """The entry of a name as the schema holds it; a `module.Class` stands for itself."""
    return OPTIMIZERS.get(name) or NamedOptimizer(name, package=name.partition(".")[0])


def optimizer_name(name: str) -> str:
    """A known name in lower case, or a `module.Class` as it is; refuses anything else with a guess."""
    if name.lower() in OPTIMIZERS:
        return name.lower()
    if _PATH.fullmatch(name):
        return name
    guess = did_you_mean(name, OPTIMIZERS)
    fix = f"did you mean '{guess}'?" if guess else f"write one of {', '.join(OPTIMIZERS)}, or module.Class"
    raise refuse(f"no optimizer is called '{shorten(name)}'", fix)
