"""What the pages show of a run's numbers: curves, headline, cut flow, resources; from the run directory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlaas_condor import show
from mlaas_condor.batch.events import Event
from mlaas_condor.data import cutflow
from mlaas_condor.data.specs import Specs
from mlaas_condor.run import RunFolder
from mlaas_condor.state import StageState, Training, read_history

from . import dag
from .drawing import Axis, Chart, Series, chart

_SPLITS = (("test", 1), ("validation", 2), ("train", 3))
_MOST_CURVES = 3  # that one picture can tell apart
_REJECTED_AT = 0.5  # signal efficiency at which the headline gives the rejection


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; the first cell of each row is its own heading."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Fact:
    """A number of the headline."""

    name: str
    value: str
    note: str = ""


def metrics(folder: RunFolder) -> Mapping[str, Any]:
    """Return the metrics of a run; empty where there are none (yet)."""
    return _read(folder.metrics)


def auc(folder: RunFolder) -> str:
    """Return the AUC on the test events, for a list; empty where there is none (yet)."""
    return number(metrics(folder).get("test", {}).get("auc")) if folder.metrics.exists() else ""


def number(value: object, digits: int = 4) -> str:
    """Return a number with so many digits after the point, whole ones in full; empty for none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def facts(folder: RunFolder) -> list[Fact]:
    """Return the headline of what a training gave."""
    found = metrics(folder)
    test = found.get("test", {})
    if not test:
        return []
    unseen = f"on {number(test.get('events'))} events that the training never saw"
    listed = [
        Fact("Test AUC", number(test.get("auc")), unseen),
        Fact("Accuracy", number(test.get("accuracy")), f"at the threshold {test.get('threshold', 0.5):g}"),
        Fact("Test RMSE", number(test.get("rmse")), unseen),
        Fact("R²", number(test.get("r2")), "on the test events"),
        _rejection(test),
        Fact("Training events", number(found.get("train", {}).get("events")), _passes(folder)),
    ]
    return [each for each in listed if each.value]


def _rejection(test: Mapping[str, Any]) -> Fact:
    name, note = "Background rejection", f"at {_REJECTED_AT:.0%} signal efficiency"
    classes = list(test.get("rejection", {}).values())
    if len(classes) == 1:
        for each in classes[0]:
            if each["signal_efficiency"] == _REJECTED_AT:
                return Fact(name, number(each["rejection"], 1), note)
    return Fact(name, "")


def _passes(folder: RunFolder) -> str:
    history = _history(folder)
    seconds = sum(each.get("seconds") or 0.0 for each in history)
    best = [each["epoch"] for each in history if each.get("best")]
    kept = f"; the model is of epoch {best[0]}" if best else ""
    return f"in {len(history)} epochs, {show.duration(seconds)}{kept}" if history else ""


def _history(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        return read_history(folder)
    except ValueError:  # it is still arriving
        return []


def learning(folder: RunFolder, log: str = "") -> list[Chart]:
    """Draw how the training went, pass by pass: from its history or, before there is one, its log."""
    history = _history(folder)
    if history:
        passes: list[Any] = list(range(1, len(history) + 1))
        columns = {
            key: [each.get(key) for each in history]
            for key in ("loss", "val_loss", "auc", "val_auc", "rmse", "val_rmse")
        }
    else:
        told = [each for each in Training.all_of(log) if each.percent is None]
        passes = [each.epoch for each in told]
        value = "val_auc" if any(each.metric == "AUC" for each in told) else "val_rmse"
        columns = {
            "loss": [each.loss for each in told],
            "val_loss": [each.val_loss for each in told],
            value: [each.value for each in told],
        }
    if not passes:
        return []
    epochs = Axis("epoch", low=1, high=max(2, passes[-1]), whole=True)
    drawn = [_learnt("loss", "Loss", columns, passes, epochs)]
    for key, name in (("auc", "AUC"), ("rmse", "RMSE")):
        if any(each is not None for each in columns.get(f"val_{key}", ())):
            drawn.append(_learnt(key, name, columns, passes, epochs))
    return drawn


def _learnt(
    key: str, name: str, columns: Mapping[str, Sequence[float | None]], passes: Sequence[int], epochs: Axis
) -> Chart:
    series = [
        Series(words, passes, columns[column], style)
        for column, words, style in ((key, "training", 1), (f"val_{key}", "validation", 2))
        if any(each is not None for each in columns.get(column, ()))
    ]
    ends = [
        f"{each.name} from {_first(each.y)} to {_first(list(reversed(each.y)))}"
        for each in series
        if _first(each.y)
    ]
    words = f"{name} after each of {len(passes)} epochs: {', '.join(ends)}."
    return chart(f"chart-{key}", name, words, series, epochs, Axis(name))


def _first(values: Sequence[float | None]) -> str:
    return next((number(each) for each in values if each is not None), "")


def roc(folder: RunFolder) -> list[Chart]:
    """Draw the ROC: of two classes on all kinds of events, of more each against the rest on the test's."""
    found = metrics(folder)
    test = found.get("test", {})
    curves = test.get("roc") or {}
    series = []
    if len(curves) == 1:
        for split, style in _SPLITS:
            for curve in (found.get(split, {}).get("roc") or {}).values():
                name = f"{split} {number(found[split].get('auc'))}"
                series.append(Series(name, curve["fpr"], curve["tpr"], style))
    else:
        areas = test.get("auc_by_class", {})
        for style, (key, curve) in enumerate([*curves.items()][:_MOST_CURVES], 1):
            series.append(Series(f"class {key} {number(areas.get(key))}", curve["fpr"], curve["tpr"], style))
    if not series:
        return []
    words = (
        f"Signal efficiency against background efficiency; AUC: {', '.join(each.name for each in series)}."
    )
    x, y = Axis("background efficiency", 0.0, 1.0), Axis("signal efficiency", 0.0, 1.0)
    return [chart("chart-roc", "ROC, with the AUC", words, series, x, y, diagonal=True)]


def epochs(folder: RunFolder) -> Table:
    """Return the history as a table."""
    history = _history(folder)
    names = {
        "loss": "loss", "val_loss": "validation loss", "auc": "AUC", "val_auc": "validation AUC",
        "rmse": "RMSE", "val_rmse": "validation RMSE", "learning_rate": "learning rate", "seconds": "time",
    }  # fmt: skip
    keys = [key for key in names if any(each.get(key) is not None for each in history)]
    chunks = any(each.get("chunk") is not None for each in history)
    rows = [
        [
            str(each["epoch"]),
            *([str(each["chunk"])] if chunks else []),
            *(_cell(key, each.get(key)) for key in keys),
        ]
        for each in history
    ]
    return Table(["epoch", *(["chunk"] if chunks else []), *(names[key] for key in keys)], rows)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if key == "seconds":
        return f"{value:.1f} s" if value < 60 else show.duration(value)
    return f"{value:.3g}" if key == "learning_rate" else number(value) or "–"


def cut_flow(folder: RunFolder) -> Table | None:
    """Return how many events each cut leaves, a row a file, all of them first; None before merge is done."""
    specs, dataset = folder.output("merge") / "specs.json", folder.dataset
    if not folder.is_complete("merge", 0) or not specs.exists() or not dataset.exists():
        return None
    stamps = tuple(path.stat().st_mtime_ns for path in (specs, dataset))
    return _cut_flow(specs, dataset, stamps)


@lru_cache(32)
def _cut_flow(specs: Path, dataset: Path, stamps: tuple[int, ...]) -> Table | None:
    names = [Path(each["path"]).name for each in _read(dataset).get("files", [])]
    rows = cutflow.table(Specs.read(specs), names)
    (_, *cuts), *of_files, total = zip(*rows, strict=True)
    cells = [
        [name, *(f"{int(cell):,}" if cell.isdecimal() else cell for cell in flow)]
        for name, *flow in [total, *of_files]
    ]
    return Table(["File", *cuts], cells)


def resources(folder: RunFolder, events: Sequence[Event]) -> Table | None:
    """Return what a job of each stage may use, and the most that one did; None where nothing is known."""
    planned = {each["stage"]: each for each in _read(folder.plan).get("stages", [])}
    if not planned:
        return None
    asked = _asked(folder)
    used = _used(folder, events)
    rows = []
    for stage, each in planned.items():
        wanted = {**each, **(asked if stage == "train" else {})}
        rows.append(
            [
                stage,
                f"{each['jobs']:,}",
                str(wanted["cpus"]),
                str(wanted["gpus"] or "–"),
                show.size(wanted["memory"]),
                show.size(used[stage]) if used.get(stage) else "–",
                show.size(wanted["disk"]),
                f"~{show.duration(each['seconds'])}",
            ]
        )
    head = ["Stage", "jobs", "CPUs", "GPUs", "memory", "memory used", "disk", "expected time"]
    return Table(head, rows)


def _asked(folder: RunFolder) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _measured(folder).get("asked", {})
    return found


def _measured(folder: RunFolder) -> Mapping[str, Any]:
    path = folder.output("train") / "resources.json"
    return _read(path if path.exists() else folder.output("report") / "resources.json")


def _used(folder: RunFolder, events: Sequence[Event]) -> dict[str, float]:
    """Return the most memory that a job of each stage used, in MiB."""
    used: dict[str, float] = {}
    for event in events:
        if event.memory_mb:
            used[event.stage] = max(used.get(event.stage, 0), event.memory_mb)
    own = _measured(folder).get("used", {}).get("memory")
    if isinstance(own, int | float):  # what the training measured itself is exact
        used["train"] = own
    return used


def stages(states: Sequence[StageState]) -> Table:
    """Return the stages as a table: the picture in words."""
    kinds = dag.KINDS[1:]
    rows = [
        [
            each.stage,
            each.word,
            f"{each.done}/{each.tasks}",
            *(str(getattr(each, kind)) for kind in kinds),
            dag.took(each) or "–",
        ]
        for each in states
    ]
    return Table(["Stage", "state", "done", *kinds, "time"], rows)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return _kept(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):  # not there, or still arriving
        return {}


@lru_cache(256)
def _kept(path: Path, changed: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    return found
