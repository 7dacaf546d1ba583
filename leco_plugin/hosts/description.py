"""What a run in a host is, to LECO's observers and to a user who watches its beginning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leco_plugin.config.run import Option, RunDescription, short_name
from leco_plugin.config.schema import LecoConfig, PromptPair


def facts(
    pairs: Sequence[PromptPair], leco: LecoConfig, *, seed: int, walk: str = "", **host: str
) -> Iterator[tuple[str, str]]:
    """What a user wants to see before waiting, as the built-in host says it; ``host`` is what the host knows."""
    targets = dict.fromkeys(repr(pair.target) for pair in pairs if not pair.keeps)
    yield from host.items()
    yield "targets", ", ".join(targets)
    yield "pairs", str(len(pairs))
    # the family's where nobody says them
    sizes = dict.fromkeys(f"{pair.resolution[0]} x {pair.resolution[1]}" for pair in pairs)
    strengths = dict.fromkeys(f"{pair.guidance_scale:g}" for pair in pairs if not pair.keeps)
    yield "edit", f"strength {', '.join(strengths)}, at {', '.join(sizes)} pixels"
    if leco.preserve:
        yield "preserved", ", ".join(map(repr, leco.preserve))
    steps = f"{leco.max_denoising_steps} {walk} steps".replace("  ", " ")
    yield "walk", f"{leco.walk}, {steps}, guidance {leco.denoise_guidance_scale:g}"
    yield "seed", str(seed)


def describe(pairs: Sequence[PromptPair], leco: LecoConfig, said: Mapping[str, Any], **run: Any) -> RunDescription:
    """The run of a host that draws bars of its own; ``said`` are its options, and ``run`` what else is known of it.

    It was started with LECO's options, by dotted names, and those of the host.
    """
    own = {f"leco.{name}": value for name, value in leco.model_dump(mode="json").items()}
    options = {"pairs": len(pairs), **{name: _plain(value) for name, value in {**said, **own}.items()}}
    return RunDescription(pairs=tuple(pairs), preserve=leco.preserve, options=options, own_console=True, **run)


def _plain(value: object) -> Option:
    if isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    # a path says more about the machine than a tracker on the network needs to know
    is_path = Path(text).is_absolute() or text.startswith((".", "~")) or "\\" in text
    return short_name(text) if is_path else text
