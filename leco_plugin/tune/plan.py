"""What is tried first, and in between: what the sampler cannot know of rates, ranks and prompts that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from leco_plugin.config.defaults import Defaulted
from leco_plugin.tune.space import KEEP, RANK, RATES, STRENGTH, Range, Settings, Space, Value
from leco_plugin.tune.study import Plan, Tried

_ALIKE = 1.1
"""Numbers of a ratio below this are the same."""
_EXPONENT = 1.7
"""Effect and drift grow like the rate to the power of about 1 / 1.7 (builtin:tiny)."""
_HIGHER_RANK, _KEPT = 1.3, 1.15
"""What four times the rank adds to effect and drift at the same rate, and what keeping the watched prompts takes."""
_PROMISING, _CORRECTED = 3, 2
"""Of so many trials the rate is made good; none of settings that were tried at so many rates."""


def planned(found: Defaulted, own: Settings, space: Space, limit: float) -> Plan:
    """Trials of a job whose own settings are ``own``; ``limit`` is that of drift.

    The job as it is comes first, then with its family's rate, a higher rank, and with prompts kept. From then on, in
    turn, whatever promises most gets the rate that it lacks, and the sampler has its choice.
    """
    # a user need not name the job's own value, and a rate of 0 is none to search around
    starts = [one for one in (own, *_with_usual_rate(found, own, space)) if _possible(one, space)]
    lever = next((key for key in (*RATES, STRENGTH) if isinstance(space.get(key), Range)), None)

    def next_settings(begun: int, tried: Sequence[Tried]) -> Settings | None:
        turn = begun - len(starts)
        if turn < 0:
            return starts[begun]
        promising = sorted((one for one in tried if one.found), key=lambda one: one.promise(limit), reverse=True)
        if lever is None or not promising:
            return None
        if turn == 0 and RANK in space:
            return _aimed(promising[0], lever, space, limit, **_higher(promising[0], space))
        if turn == 1 and KEEP in space:
            return _aimed(promising[0], lever, space, limit, **{KEEP: not promising[0].settings[KEEP]})
        if turn % 2:
            return None
        aims = [_aimed(one, lever, space, limit) for one in promising[:_PROMISING]]
        return next((aim for aim in aims if _is_new(aim, lever, tried)), None)

    return next_settings


def _aimed(one: Tried, lever: str, space: Space, limit: float, **changed: Value) -> Settings:
    """What was tried, with what is ``changed`` and a rate for the whole effect, or as much as ``limit`` leaves."""
    settings, by = {**one.settings, **changed}, one.found.missing(limit) if one.found else 1.0
    if changed.get(RANK, one.settings.get(RANK)) != one.settings.get(RANK):
        by /= _HIGHER_RANK
    if changed.get(KEEP, one.settings.get(KEEP)) != one.settings.get(KEEP):
        by *= _KEPT if settings[KEEP] else 1 / _KEPT
    settings[lever] = cast(Range, space[lever]).within(float(settings[lever]) * by**_EXPONENT)
    return settings


def _higher(one: Tried, space: Space) -> dict[str, Value]:
    ranks = cast(Sequence[Value], space[RANK])
    return {RANK: ranks[min(ranks.index(one.settings[RANK]) + 2, len(ranks) - 1)]}


def _with_usual_rate(found: Defaulted, own: Settings, space: Space) -> list[dict[str, Value]]:
    rate, usual = next((key for key in RATES if key in space), None), float(found.table.get("train.lr", 0.0))
    if rate is None or not usual or _close(float(own[rate]), usual):
        return []
    return [{**own, rate: usual}]


def _possible(settings: Settings, space: Space) -> bool:
    return all(
        values.within(float(settings[key])) == settings[key] if isinstance(values, Range) else settings[key] in values
        for key, values in space.items()
    )


def _is_new(aim: Settings, lever: str, tried: Sequence[Tried]) -> bool:
    """Whether nothing like ``aim`` was tried, and all but its rate no more than once."""
    others = {key: value for key, value in aim.items() if key != lever}
    rates = [float(one.settings[lever]) for one in tried if _alike(others, one.settings)]
    return len(rates) < _CORRECTED and not any(_close(float(aim[lever]), rate) for rate in rates)


def _alike(one: Settings, other: Settings) -> bool:
    return all(
        _close(value, float(other[key])) if isinstance(value, float) else value == other[key]
        for key, value in one.items()
    )


def _close(one: float, other: float) -> bool:
    return one < _ALIKE * other and other < _ALIKE * one
