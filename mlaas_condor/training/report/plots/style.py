"""What all pictures share: the style of the field, colours, names that are safe to show."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLOURS = ("#3f90da", "#e42536", "#ffa90e", "#964a8b", "#9c9ca1", "#7a21dd")
"""One a class: told apart by colour-blind readers too, and in print."""

SPLIT_STYLES: dict[str, Literal["-", "--", ":"]] = {"test": "-", "validation": "--", "train": ":"}
LONGEST = 40  # characters of a name in a picture
_LONGEST_FILE = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")

_SMALLER: dict[str, Any] = {
    "font.size": 15,
    "axes.labelsize": 17,
    "axes.titlesize": 15,
    "xtick.labelsize": 14,
    "ytick.labelsize": 14,
    "legend.fontsize": 14,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
}


@contextmanager
def figure(path: Path, width: float, height: float, fitted: bool = True) -> Iterator[Figure]:
    """Give a figure in the style of the field, in inches, and write it to ``path`` at the end.

    To fit margins to what is written in them takes more than half of the time; where there are hundreds of
    pictures, whoever draws sets them.
    """
    root: dict[str, Any] = dict(mplhep.style.ROOT)
    fonts = [*root["font.sans-serif"], "DejaVu Sans"]  # has the letters that the others lack, as Greek
    settings: dict[Any, Any] = {**root, **_SMALLER, "font.sans-serif": fonts}
    with matplotlib.rc_context(settings):
        drawn = Figure(figsize=(width, height), layout="constrained" if fitted else None)
        FigureCanvasAgg(drawn)
        yield drawn
        with warnings.catch_warnings():
            # A name may be written in letters that no font here has; they become boxes.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
            drawn.savefig(path, format="png", dpi=110)


def colour(k: int, count: int = len(COLOURS)) -> str:
    """Return the colour of a class, of so many; where the usual ones do not suffice, from a rainbow."""
    if count <= len(COLOURS):
        return COLOURS[k % len(COLOURS)]
    return to_hex(matplotlib.colormaps["turbo"](0.05 + 0.9 * k / (count - 1)))


def shown(name: str, longest: int = LONGEST) -> str:
    """Return a name of the user's as matplotlib shows it letter by letter, cut where it is long.

    A dollar sign would begin a formula, and a legend leaves out what begins with an underscore.
    """
    cut = name if len(name) <= longest else name[: longest - 1] + "…"
    escaped = cut.replace("$", r"\$")
    return "\u200a" + escaped if escaped.startswith("_") else escaped


def names_of(classes: Sequence[str] | None, count: int) -> list[str]:
    """Return the names of the classes to show; ``class 0``, ``class 1``, … where there are none."""
    given = [shown(name) for name in classes or ()]
    return given + [f"class {k}" for k in range(len(given), count)]


def file_name(name: str, taken: set[str] | None = None) -> str:
    """Return a name of the user's as a file name, without an ending.

    Parameters
    ----------
    name
        Any text.
    taken
        File names, in small letters, that are not to be given again; the new one is added.
    """
    safe = _UNSAFE.sub("_", name).strip(".-")[:_LONGEST_FILE] or "_"
    taken = set() if taken is None else taken
    unique, number = safe, 1
    while unique.lower() in taken:
        number += 1
        unique = f"{safe}-{number}"
    taken.add(unique.lower())
    return unique


def or_ones(
    weights: Mapping[str, NDArray[Any]] | None, events: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the weights by split; ones where there are no weights."""
    if weights is None:
        return {split: np.ones(len(values)) for split, values in events.items()}
    return {split: np.asarray(weights[split], np.float64) for split in events}


def grid(axis: Axes) -> None:
    """Draw thin lines to read values by, behind everything else."""
    axis.set_axisbelow(True)
    axis.grid(True, color="0.9", linewidth=0.8)
