"""A pair in words, for everything that shows one."""

from __future__ import annotations

from collections.abc import Sequence

from leco_plugin.config.schema import PromptPair
from leco_plugin.errors import harmless


def equation(pair: PromptPair) -> str:
    """Say in words what the LoRA learns from one pair.

    The sign before the strength follows the action alone, as the training goal does.
    """
    at_strength = "" if pair.multiplier == 1 else f" at strength {pair.multiplier}"
    if pair.guidance_scale == 0 and pair.neutral == pair.target:
        asked = quote(pair.target)
        return f"keep {asked}: when asked for {asked}{at_strength}, predict what it predicts without the LoRA"
    sign = "minus" if pair.action == "erase" else "plus"
    return (
        f"{pair.action} {quote(pair.positive)}: when asked for {quote(pair.target)}{at_strength}, "
        f"predict what {quote(pair.neutral)} predicts, "
        f"{sign} {pair.guidance_scale} x what {quote(pair.positive)} adds to {quote(pair.unconditional)}"
    )


def in_words(pairs: Sequence[PromptPair]) -> list[str]:
    """Say what is trained, a line for each concept, whichever way its pairs are written."""
    groups: dict[tuple[str, frozenset[str]], list[PromptPair]] = {}
    for pair in pairs:
        groups.setdefault((pair.target, frozenset((pair.positive, pair.unconditional))), []).append(pair)
    return list(dict.fromkeys(_group(group) for group in groups.values()))


def _group(pairs: Sequence[PromptPair]) -> str:
    first, ends = pairs[0], [[pair for pair in pairs if sign * pair.multiplier > 0] for sign in (1, -1)]
    if first.keeps:
        return f"keeps {quote(first.target)} as it is"
    if all(ends):
        up, down = (_end(end) for end in ends)
        return f"a slider on {quote(first.target)}: {up} at strength +1, {down} at -1"
    verb, of = ("takes", "out of") if first.action == "erase" else ("adds", "to")
    against = f", measured against {quote(first.unconditional)}" if first.unconditional else ""
    start = "" if first.neutral in (first.target, first.unconditional) else f", towards {quote(first.neutral)}"
    return f"{verb} {quote(first.positive)} {of} {quote(first.target)}{against}{start}"


def _end(pairs: Sequence[PromptPair]) -> str:
    """One end of a slider; where it only takes away, the other side is what there is less of."""
    towards = next((pair.positive for pair in pairs if pair.action == "enhance"), None)
    return f"less {quote(pairs[0].positive)}" if towards is None else quote(towards)


def effect_in_words(pairs: Sequence[PromptPair], effect: float) -> str:
    """Say what an effect means: 1 is all that the pairs' positive prompts differ by from their unconditional ones."""
    asking = [pair for pair in pairs if pair.multiplier != 0 and not pair.keeps]
    concepts = {frozenset((pair.positive, pair.unconditional)): pair for pair in reversed(asking)}
    if not concepts:
        return "it is asked for nothing"
    *others, first = concepts.values()
    strength = max(abs(pair.multiplier) for pair in asking)
    more = f", and so with {len(others)} more" if others else ""
    if first.guidance_scale == 0:
        what = f"{quote(first.neutral)} differs from {quote(first.target)}"
    else:
        what = f"{quote(first.positive)} differs from {quote(first.unconditional)}"
    return f"at strength {strength:g} it moves pictures by {round(effect, 2) + 0.0:.2f} of what {what}{more}"


def settings(pair: PromptPair) -> str:
    """List the values of one pair beside its prompts."""
    height, width = pair.resolution
    parts = [
        f"{height} high x {width} wide",
        f"batch_size {pair.batch_size}",
        f"guidance_scale {pair.guidance_scale}",
        f"multiplier {pair.multiplier}",
        f"weight {pair.weight}",
        f"dynamic_resolution {str(pair.dynamic_resolution).lower()}",
        f"dynamic_crops {str(pair.dynamic_crops).lower()}",
    ]
    return ", ".join(parts)


def quote(text: str) -> str:
    """Put a prompt in quotes, with line ends and other unprintable characters spelled out."""
    return f"'{harmless(text)}'"
