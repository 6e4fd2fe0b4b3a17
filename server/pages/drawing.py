"""Curves as SVG: columns in, a picture out, made of what any browser knows.

Colours and dashes are classes, so that the style sheet decides them, dark and light; nothing is written as a
``style``, which the pages' policy would refuse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

Number = float | int | None

_WIDTH, _HEIGHT = 400, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 40
_TICKS = 5
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Series:
    """A curve.

    Parameters
    ----------
    name
        As the legend has it.
    x, y
        The points; one that is not a number makes a gap.
    style
        Number of its colour and dashes, from 1.
    """

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    style: int = 1


@dataclass(frozen=True)
class Axis:
    """An axis.

    Parameters
    ----------
    name
        What it shows, with the unit.
    low, high
        Its ends; of the values where None.
    whole
        Whether only whole numbers have a meaning: epochs.
    """

    name: str
    low: float | None = None
    high: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Chart:
    """A picture of curves, and what a page says beside it.

    Parameters
    ----------
    title, description
        What it is; the same in words, for who does not see it.
    series
        The curves.
    svg
        The picture.
    """

    title: str
    description: str
    series: Sequence[Series]
    svg: Markup


@dataclass(frozen=True)
class _Scale:
    """From values to places in the picture, with the ticks between."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def chart(
    key: str,
    title: str,
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    diagonal: bool = False,
) -> Chart:
    """Draw curves.

    Parameters
    ----------
    key
        Tells it from the other pictures of a page.
    title, description, series
        As in `Chart`.
    x, y
        The axes.
    diagonal
        Whether to draw the line from one corner to the other: of a model that knows nothing.
    """
    shown = [each for each in series if _points(each)]
    across = _scale(x, [point[0] for each in shown for point in _points(each)], _LEFT, _WIDTH - _RIGHT)
    up = _scale(y, [point[1] for each in shown for point in _points(each)], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="{escape(key)}-title {escape(key)}-desc">',
        f'<title id="{escape(key)}-title">{escape(title)}</title>',
        f'<desc id="{escape(key)}-desc">{escape(description)}</desc>',
        *_axes(across, up, x, y),
    ]
    if diagonal:
        parts.append(
            f'<path class="diagonal" d="M{across(across.low):.1f} {up(up.low):.1f}'
            f'L{across(across.high):.1f} {up(up.high):.1f}"/>'
        )
    parts += [_curve(each, across, up) for each in shown]
    return Chart(title, description, shown, Markup("".join([*parts, "</svg>"])))


def _finite(value: Number) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _points(series: Series) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in zip(series.x, series.y, strict=False)
        if x is not None and y is not None and _finite(x) and _finite(y)
    ]


def _scale(axis: Axis, values: Sequence[float], start: float, stop: float) -> _Scale:
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    if high <= low:
        margin = 1.0 if axis.whole else abs(low) * 0.1 or 0.5
        low, high = (low - margin, high + margin) if axis.low is None else (low, low + margin)
    step = _step(high - low, axis.whole)
    if axis.low is None and not axis.whole:
        low = math.floor(low / step + 1e-9) * step
    if axis.high is None and not axis.whole:
        high = math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return _Scale(low, high, start, stop, tuple(k * step for k in range(first, last + 1)))


def _step(span: float, whole: bool) -> float:
    """Return the distance of ticks: 1, 2, 2.5 or 5 times a power of ten."""
    raw = span / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(each for each in _STEPS if each * power >= raw * (1 - 1e-9)) * power
    return float(max(1, math.ceil(step))) if whole else step


def _axes(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    bottom, middle = _HEIGHT - _BOTTOM, (_TOP + _HEIGHT - _BOTTOM) / 2
    lines = "".join(f"M{_LEFT} {up(tick):.1f}H{_WIDTH - _RIGHT}" for tick in up.ticks)
    parts = [
        f'<path class="grid" d="{lines}"/>',
        f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>',
    ]
    for tick in across.ticks:
        place = f"{across(tick):.1f}"
        parts.append(f'<path class="axis" d="M{place} {bottom}v4"/>')
        parts.append(
            f'<text class="tick" x="{place}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    for tick in up.ticks:
        place = f"{up(tick) + 3.5:.1f}"
        parts.append(
            f'<text class="tick" x="{_LEFT - 7}" y="{place}" text-anchor="end">{_number(tick)}</text>'
        )
    centre = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="name" x="{centre}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x.name)}</text>'
        f'<text class="name" transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.name)}</text>"
    )
    return parts


def _curve(series: Series, across: _Scale, up: _Scale) -> str:
    """Return a curve: a line with gaps, or a dot where there is one point only."""
    there = [
        (across(float(x)), up(float(y)))
        if x is not None and y is not None and _finite(x) and _finite(y)
        else None
        for x, y in zip(series.x, series.y, strict=False)
    ]
    kind = f"series-{series.style}"
    points = [point for point in there if point]
    if len(points) == 1:
        return f'<circle class="dot {kind}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3.5"/>'
    path = "".join(
        f"{'L' if before else 'M'}{point[0]:.1f} {point[1]:.1f}"
        for before, point in pairwise([None, *there])
        if point
    )
    return f'<path class="curve {kind}" d="{path}"/>'


def _number(value: float) -> str:
    return f"{value:.4g}" if value else "0"
