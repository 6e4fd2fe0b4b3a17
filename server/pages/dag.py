"""The stages of a run as a picture: what each has done, does and waits for, and what comes after what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from mlaas_condor.show import duration
from mlaas_condor.state import StageState

KINDS = ("done", "running", "idle", "held", "failed")
"""What a task can be, in the order in which a bar shows it; what is left of the bar has not begun."""

WHAT = {
    "specs": "measures the inputs",
    "merge": "joins what was measured",
    "preprocess": "cuts, and makes the chunks",
    "train": "trains the model",
    "report": "draws, and packs the bundle",
}


@dataclass(frozen=True)
class _Box:
    """Where a stage is drawn, and how large."""

    x: float
    y: float
    width: float
    height: float


_LEAST = 2.0  # of a part of a bar that is there at all
_WIDE = tuple(_Box(4 + 204 * k, 14, 164, 118) for k in range(5))
_TALL = tuple(_Box(4, 12 + 106 * k, 328, 80) for k in range(5))


def picture(stages: Sequence[StageState], tall: bool = False) -> Markup:
    """Draw the stages, from left to right or, for a narrow page, from top to bottom."""
    key = "dag-tall" if tall else "dag-wide"
    boxes = (_TALL if tall else _WIDE)[: len(stages)]
    width, height = (340, boxes[-1].y + 92) if tall else (988, 140)
    parts = [
        f'<svg class="dag {key}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc">',
        f'<title id="{key}-title">Stages of the run</title>',
        f'<desc id="{key}-desc">{escape(in_words(stages))}</desc>',
    ]
    places = pairwise(zip(boxes, stages, strict=True))
    parts += [_tall_arrow(*each) if tall else _wide_arrow(*each) for each in places]
    parts += [_stage(box, stage) for box, stage in zip(boxes, stages, strict=True)]
    return Markup("".join([*parts, "</svg>"]))


def bar(stages: Sequence[StageState]) -> Markup:
    """Draw the stages as one small bar, for a row of a table."""
    words = escape(in_words(stages))
    size = 'viewBox="0 0 130 12" preserveAspectRatio="none"'
    parts = [f'<svg class="stages" {size} role="img" aria-label="{words}">']
    for k, stage in enumerate(stages):
        parts.append(_shares(stage, 26.5 * k, 2, 24, 8, 2))
    return Markup("".join([*parts, "</svg>"]))


def in_words(stages: Sequence[StageState]) -> str:
    """Return the stages as a sentence."""
    return "; ".join(f"{stage.stage} {stage.word}, {counts(stage)}" for stage in stages) + "."


def counts(stage: StageState) -> str:
    """Return what the tasks of a stage do: ``3 of 8 done, 2 running``."""
    more = [f"{getattr(stage, kind)} {kind}" for kind in KINDS[1:] if getattr(stage, kind)]
    return ", ".join([f"{stage.done} of {stage.tasks} done", *more])


def took(stage: StageState) -> str:
    """Return how long a stage took; empty where it is not over."""
    if stage.started is None or stage.ended is None:
        return ""
    return duration(stage.ended - stage.started)


_Place = tuple[_Box, StageState]


def _wide_arrow(before: _Place, after: _Place) -> str:
    box, stage = before
    y, start, end = box.y + box.height / 2, box.x + box.width + _behind(stage), after[0].x
    return _arrow(stage, f"M{start} {y}H{end - 3}", f"M{end - 8} {y - 4}L{end - 2} {y}L{end - 8} {y + 4}")


def _tall_arrow(before: _Place, after: _Place) -> str:
    box, stage = before
    x, start, end = box.x + 26, box.y + box.height, after[0].y - _behind(after[1])
    return _arrow(stage, f"M{x} {start}V{end - 3}", f"M{x - 4} {end - 8}L{x} {end - 2}L{x + 4} {end - 8}")


def _arrow(stage: StageState, line: str, head: str) -> str:
    reached = " reached" if stage.word in ("done", "reused") else ""
    return f'<path class="arrow{reached}" d="{line}{head}"/>'


def _behind(stage: StageState) -> int:
    """Return how far what stands for more tasks looks out from behind a stage."""
    return 4 * min(2, max(0, stage.tasks - 1))


def _stage(box: _Box, stage: StageState) -> str:
    """Return a stage: its name, a bar with its tasks, the counts; several tasks look like several cards."""
    x, y = box.x, box.y
    size = f'width="{box.width}" height="{box.height}" rx="9"'
    behind = "".join(
        f'<rect class="node behind" x="{x + 4 * k}" y="{y - 4 * k}" {size}/>'
        for k in (2, 1)
        if stage.tasks > k
    )
    lines = _lines(stage)
    # Where the box is low, what is said of the tasks stands beside the name.
    low = box.height < 100
    words = [(x + 46, y + 44, lines[0])] if low else [(x + 14, y + 58, lines[0])]
    if lines[1]:
        words.append((x + box.width - 14, y + 26, lines[1]) if low else (x + 14, y + 76, lines[1]))
    end = ' text-anchor="end"' if low else ""
    texts = "".join(
        f'<text class="{kind}" x="{left}" y="{top}"{end if kind == "more" else ""}>{escape(text)}</text>'
        for kind, (left, top, text) in zip(("count", "more"), words, strict=False)
    )
    inset = 46 if low else 14
    return (
        f'<g class="stage is-{stage.word}">{behind}'
        f'<rect class="node" x="{x}" y="{y}" {size}/>'
        f'<use class="icon" href="#i-{stage.word}" x="{x + 14}" y="{y + 13}" width="20" height="20"/>'
        f'<text class="name" x="{x + (46 if low else 42)}" y="{y + 27}">{stage.stage}</text>{texts}'
        f"{_shares(stage, x + inset, y + box.height - 22, box.width - inset - 14, 8, 4)}</g>"
    )


def _lines(stage: StageState) -> tuple[str, str]:
    """Return how many tasks are done, and what else there is to say."""
    first = f"{stage.done} of {stage.tasks} done" if stage.tasks else "not planned yet"
    if stage.word == "reused":
        return f"{stage.tasks} of {stage.tasks} reused", "from an earlier run"
    more = ", ".join(f"{getattr(stage, kind)} {kind}" for kind in KINDS[1:] if getattr(stage, kind))
    return first, more or took(stage)


def _shares(stage: StageState, x: float, y: float, width: float, height: float, radius: float) -> str:
    """Return a bar with a part for each kind of task."""
    place = f'y="{y}" height="{height}"'
    parts = [f'<rect class="track" x="{x}" {place} width="{width}" rx="{radius}"/>']
    left = x
    for kind, wide in _widths(stage, width).items():
        shown = "reused" if kind == "done" and stage.word == "reused" else kind
        parts.append(
            f'<rect class="part is-{shown}" x="{left:.1f}" {place} width="{wide:.1f}" rx="{radius}"/>'
        )
        left += wide
    return "".join(parts)


def _widths(stage: StageState, width: float) -> dict[str, float]:
    """Return the width of each part that there is: one task of very many can be seen, too."""
    counts = {kind: getattr(stage, kind) for kind in KINDS if getattr(stage, kind)}
    widths = {kind: width * number / max(1, stage.tasks) for kind, number in counts.items()}
    for kind, wide in widths.items():
        largest = max(widths, key=lambda each: widths[each])
        if wide < _LEAST and kind != largest:
            widths[kind], widths[largest] = _LEAST, widths[largest] - (_LEAST - wide)
    return widths
