"""One slider entry to its training pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leco_plugin.config.kinds import Action, Size, Sizes
from leco_plugin.config.schema import PromptPair
from leco_plugin.config.values import Values

STANDARD = Sizes(((512, 512),))


def slider_sizes(values: Values) -> tuple[Size, ...]:
    """Return every size that the slider is trained at; `resolutions` wins over `resolution`."""
    return (values.resolutions or values.resolution or STANDARD).each


def expand_slider(values: Values, neutrals: Sequence[str]) -> Iterator[PromptPair]:
    """Yield the pairs of a slider: per neutral, per size, both ends of the slider at +m and at -m.

    A side that is missing or blank is left out, and the other one is then measured against the empty prompt.
    """
    strength = 1.0 if values.multiplier is None else values.multiplier
    shared = shared_options(values) | {"target": values.target_class or ""}
    for neutral in neutrals:
        for size in slider_sizes(values):
            for positive, unconditional, action, sign in _directions(values):
                pair = {"positive": positive, "unconditional": unconditional, "action": action, "neutral": neutral}
                sizes = {"resolution": size} if values.resolutions or values.resolution else {}
                yield PromptPair.model_validate(shared | pair | sizes | {"multiplier": sign * strength})


def shared_options(values: Values) -> dict[str, object]:
    """What is written of a pair's options other than its prompts and sizes; the pair has the defaults."""
    names = ("guidance_scale", "dynamic_resolution", "batch_size", "dynamic_crops", "multiplier", "weight", "action")
    return {name: value for name in names if (value := getattr(values, name)) is not None}


def is_blank(text: str | None) -> bool:
    """Say whether a side of a slider is absent: not written, or only blanks."""
    return text is None or not text.strip()


def _directions(values: Values) -> list[tuple[str, str, Action, float]]:
    """List (positive, unconditional, action, sign of the multiplier)."""
    up, down = values.positive or "", values.negative or ""
    if is_blank(down):
        return [(up, "", "enhance", 1.0), (up, "", "erase", -1.0)]
    if is_blank(up):
        return [(down, "", "erase", 1.0), (down, "", "enhance", -1.0)]
    return [
        (down, up, "erase", 1.0),
        (up, down, "enhance", 1.0),
        (up, down, "erase", -1.0),
        (down, up, "enhance", -1.0),
    ]
