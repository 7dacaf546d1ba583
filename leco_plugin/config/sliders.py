"""One slider entry to its training pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leco_plugin.config.kinds import Action
from leco_plugin.config.schema import PromptPair
from leco_plugin.config.values import Size, Sizes, Values

_STANDARD = Sizes(((512, 512),))


def slider_sizes(values: Values) -> tuple[Size, ...]:
    """Return every size that the slider is trained at; `resolutions` wins over `resolution`."""
    return (values.resolutions or values.resolution or _STANDARD).each


def expand_slider(values: Values, neutrals: Sequence[str]) -> Iterator[PromptPair]:
    """Yield the pairs of a slider: per neutral, per size, both ends of the slider at +m and at -m.

    A side that is missing or blank is left out, and the other one is then measured against the empty prompt.
    """
    strength = 1.0 if values.multiplier is None else values.multiplier
    for neutral in neutrals:
        for size in slider_sizes(values):
            for positive, unconditional, action, sign in _directions(values):
                yield PromptPair(
                    target=values.target_class or "",
                    positive=positive,
                    unconditional=unconditional,
                    neutral=neutral,
                    action=action,
                    resolution=size,
                    multiplier=sign * strength,
                    guidance_scale=1.0 if values.guidance_scale is None else values.guidance_scale,
                    dynamic_resolution=bool(values.dynamic_resolution),
                    batch_size=values.batch_size or 1,
                    dynamic_crops=bool(values.dynamic_crops),
                    weight=1.0 if values.weight is None else values.weight,
                )


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
