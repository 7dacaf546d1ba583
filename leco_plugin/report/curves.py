"""Curves over the steps of a run, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from leco_plugin.observers.console.figures import percentage

Point = tuple[float, float]
_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 24
_MOST_POINTS = 400
_SMALL = 0.1
"""What moves within it is not to look large, but for a loss."""


@dataclass(frozen=True)
class Curve:
    """One figure of a run."""

    title: str
    points: Sequence[Point]
    """(step, value), in order of the steps."""
    percent: bool = False
    """Values are fractions."""
    smooth: bool = False
    """Draw what was measured faintly, and a smoothed line over it."""
    asked: float | None = None
    """Where a dashed line shows what was asked for."""

    def write(self, value: float) -> str:
        """A value in words."""
        return percentage(value) if self.percent else f"{value:.3g}"


def draw_curve(curve: Curve) -> str:
    """The curve as a figure with its title and last value; nothing where there are no points."""
    if not curve.points:
        return ""
    points = _thinned(curve.points)
    smoothed = _smoothed(points) if curve.smooth else points
    area = _Area(points, smoothed, curve.asked or (0.0 if curve.smooth else _SMALL))
    last = curve.write(smoothed[-1][1])
    steps = f"step {points[0][0]:g} to {points[-1][0]:g}"
    label = escape(f"{curve.title}, {steps}: from {curve.write(smoothed[0][1])} to {last}")
    lines = [f'<path class="raw" d="{area.path(points)}"/>'] if curve.smooth else []
    lines.append(f'<path class="line" d="{area.path(smoothed)}"/>')
    x, y = area.place(smoothed[-1])
    lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    if curve.asked is not None:
        at = area.place((0, curve.asked))[1]
        lines.append(f'<path class="asked" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
    return (
        f"<figure><figcaption>{escape(curve.title)}<span>{escape(last)}</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{area.axes(curve.write)}{''.join(lines)}</svg></figure>"
    )


class _Area:
    """From steps and values to places in the drawing."""

    def __init__(self, points: Sequence[Point], smoothed: Sequence[Point], at_least: float) -> None:
        values = sorted(value for _, value in points)
        # a few spikes of a noisy figure must not press the rest flat
        most = max(values[int(0.98 * (len(values) - 1))], *(value for _, value in smoothed), at_least)
        least = min(0.0, *(value for _, value in smoothed), values[0])
        self._tick = _nice((most - least) / 4 or 1.0)
        self._bottom = math.floor(least / self._tick + 1e-9) * self._tick
        self._top = max(math.ceil(most / self._tick - 1e-9) * self._tick, self._bottom + self._tick)
        self._first, self._last = points[0][0], max(points[-1][0], points[0][0] + 1)

    def place(self, point: Point) -> Point:
        """(x, y) of a point; what is beyond the top is drawn at the top."""
        x = (point[0] - self._first) / (self._last - self._first)
        y = (min(point[1], self._top) - self._bottom) / (self._top - self._bottom)
        return _LEFT + x * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        """A line through the points."""
        return "M" + "L".join("{:.1f} {:.1f}".format(*self.place(point)) for point in points)

    def axes(self, write: Callable[[float], str]) -> str:
        """Grid lines with their values, and the first and last step."""
        parts = []
        for number in range(round((self._top - self._bottom) / self._tick) + 1):
            value = self._bottom + number * self._tick
            y = self.place((self._first, value))[1]
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(write(value))}</text>')
        bottom = _HEIGHT - 6
        parts.append(f'<text x="{_LEFT}" y="{bottom}">{self._first:g}</text>')
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{bottom}" text-anchor="end">step {self._last:g}</text>')
        return "".join(parts)


def _nice(size: float) -> float:
    """The smallest of 1, 2, 5, 10, ... that is not below ``size``."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Means over runs of neighbours, so many that few enough are left."""
    size = -(-len(points) // _MOST_POINTS)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(run[-1][0], sum(value for _, value in run) / len(run)) for run in runs]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Every value a mean of those before it, older ones counting less."""
    fade, weight, total, found = 1 - 1 / max(len(points) / 15, 1), 0.0, 0.0, []
    for step, value in points:
        weight, total = fade * weight + 1, fade * total + value
        found.append((step, total / weight))
    return found
