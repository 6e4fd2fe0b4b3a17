"""The numbers of a training as tables of text, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlaas_condor.training.comparison import Comparison, written
from mlaas_condor.training.scan import Row

NOTHING = "–"
MOST_ROWS = 200
MOST_CLASSES = 15  # that are shown against each other
_AVERAGES = {"macro avg": "mean over the classes", "weighted avg": "mean over the events"}

_CLASSIFICATION = {
    "auc": "AUC", "average_precision": "Average precision", "accuracy": "Accuracy", "log_loss": "Log loss",
}  # fmt: skip
_REGRESSION = {
    "rmse": "Root mean square residual (RMSE)", "mae": "Mean absolute residual (MAE)",
    "bias": "Mean residual", "resolution": "Standard deviation of the residuals",
    "r2": "Coefficient of determination (R²)",
}  # fmt: skip
_RESOURCES = {
    "memory": "memory", "disk": "disk", "cpus": "CPUs", "gpus": "GPUs", "gpu_memory": "GPU memory",
    "seconds": "time", "cpu_seconds": "CPU time",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of each is its heading.

    Parameters
    ----------
    head
        Heading of each column.
    rows
        Cells, as many as headings.
    caption
        What is in it.
    text
        Whether the cells are words, to the left, and not numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text: bool = False
    kind: Literal["table"] = "table"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits, whole ones in full; a dash for None."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def mib(value: float | None) -> str:
    """Return MiB as ``512 MB`` or ``1.5 GB``, as submit files write them."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{value:.2g} MB"
    return f"{value:.0f} MB" if value < 1024 else f"{value / 1024:.1f} GB"


def duration(seconds: float | None) -> str:
    """Return seconds as ``42 s``, ``3:07 min`` or ``1:02 h``."""
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def of_metrics(metrics: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> Table:
    """Return the metrics of the splits side by side."""
    splits = list(metrics)
    rows = [["Events", *(number(metrics[split]["events"]) for split in splits)]]
    for k, name in enumerate(classes):
        rows.append([f"… of {name}", *(_of_class(metrics[split], "events_by_class", k) for split in splits)])
    if any("weight_by_class" in metrics[split] for split in splits):
        for k, name in enumerate(classes):
            cells = (_of_class(metrics[split], "weight_by_class", k) for split in splits)
            rows.append([f"Sum of weights of {name}", *cells])
    if any("weight" in metrics[split] for split in splits):
        rows.append(["Sum of weights", *(number(metrics[split].get("weight")) for split in splits)])
    for key, name in (_CLASSIFICATION if classes else _REGRESSION).items():
        rows.append([name, *(number(metrics[split].get(key)) for split in splits)])
    if not classes:
        for percent in ("16", "50", "84"):
            cells = (number(metrics[split]["residual_quantiles"].get(percent)) for split in splits)
            rows.append([f"{percent} % of the residuals are below", *cells])
    elif len(classes) == 2:
        rows += _thresholds([metrics[split].get("best_threshold", {}).get("1") for split in splits])
    return Table(["", *splits], rows)


def _of_class(metrics: Mapping[str, Any], key: str, k: int) -> str:
    return number(metrics.get(key, {}).get(str(k)))


def _thresholds(found: Sequence[Mapping[str, Any] | None]) -> list[list[str]]:
    return [
        [name, *(number(each[key]) if each else NOTHING for each in found)]
        for key, name in (("threshold", "Best threshold"), ("g_mean", "g-mean at it"))
    ]


def of_classes(metrics: Mapping[str, Any], classes: Sequence[str]) -> Table:
    """Return AUC, average precision and best threshold of each class against the rest."""
    rows = []
    for k, name in enumerate(classes):
        key, best = str(k), metrics.get("best_threshold", {}).get(str(k), {})
        rows.append(
            [
                name,
                number(metrics.get("auc_by_class", {}).get(key)),
                number(metrics.get("average_precision_by_class", {}).get(key)),
                number(best.get("threshold")),
                number(best.get("g_mean")),
            ]
        )
    head = ["Class against the rest", "AUC", "average precision", "best threshold", "g-mean at it"]
    return Table(head, rows, "Test events")


def of_rejection(metrics: Mapping[str, Any], classes: Sequence[str]) -> Table | None:
    """Return the background rejection at the usual signal efficiencies; None where it is not known."""
    rejection = metrics.get("rejection", {})
    if not rejection or len(rejection) > MOST_CLASSES:
        return None
    several = len(rejection) > 1
    rows = []
    for key, points in rejection.items():
        for each in points:
            efficiency = f"{100 * each['signal_efficiency']:.0f} %"
            rows.append(
                [
                    f"{classes[int(key)]}, {efficiency}" if several else efficiency,
                    number(each["threshold"]),
                    number(each["rejection"], 3),
                    number(each["background_events"]),
                ]
            )
    head = ["Signal efficiency", "threshold", "background rejection", "background events that pass"]
    return Table(head, rows, "Test events")


def of_overtraining(found: Mapping[str, Comparison], classes: Sequence[str]) -> Table:
    """Return the Kolmogorov-Smirnov tests of training against test scores."""
    rows = [
        [classes[int(k)], number(each["statistic"], 3), written(each["p_value"]) or NOTHING]
        for k, each in found.items()
    ]
    head = ["Class", "largest distance of the cumulative distributions", "p-value"]
    return Table(head, rows, "Kolmogorov-Smirnov test of training against test scores")


def of_confusion(metrics: Mapping[str, Any], classes: Sequence[str]) -> Table | None:
    """Return the confusion matrix; None where it would not fit on a page."""
    if len(classes) > MOST_CLASSES:
        return None
    rows = [
        [name, *(number(cell) for cell in row)]
        for name, row in zip(classes, metrics["confusion_matrix"], strict=True)
    ]
    what = "Sums of weights" if "weight_by_class" in metrics else "Events"
    caption = f"{what} of each true class (row) by predicted class (column), test events"
    return Table(["True class", *classes], rows, caption)


def of_report(metrics: Mapping[str, Any], classes: Sequence[str]) -> Table | None:
    """Return scikit-learn's classification report; None where there is none."""
    report = metrics.get("report", {})
    if not report:
        return None
    rows = []
    for key, name in [*((str(k), name) for k, name in enumerate(classes)), *_AVERAGES.items()]:
        if key in report:
            cells = (number(report[key][what]) for what in ("precision", "recall", "f1-score"))
            rows.append([name, *cells, number(report[key]["support"])])
    total = "sum of weights" if "weight_by_class" in metrics else "events"
    caption = (
        f"Test events, at the threshold {metrics['threshold']:g}" if len(classes) == 2 else "Test events"
    )
    return Table(["Class", "precision", "recall", "F1", total], rows, caption)


def of_plan(stages: Sequence[Mapping[str, Any]]) -> Table:
    """Return what the plan gives the jobs of each stage."""
    rows = [
        [
            each["stage"],
            number(each["jobs"]),
            number(each["cpus"]),
            number(each["gpus"]),
            mib(each["memory"]),
            mib(each["disk"]),
            duration(each["seconds"]),
        ]
        for each in stages
    ]
    head = ["Stage", "jobs", "CPUs", "GPUs", "memory", "disk", "expected time"]
    return Table(head, rows, "Planned; CPUs, GPUs, memory, disk and time of each job")


def of_resources(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return what jobs asked for and used."""
    columns = [
        (key, which)
        for key in _ordered(key for each in found for which in ("asked", "used") for key in each[which])
        for which in ("asked", "used")
        if any(key in each[which] for each in found)
    ]
    rows = [
        [each["stage"], *(_resource(key, each[which].get(key)) for key, which in columns)] for each in found
    ]
    head = ["Stage", *(f"{_RESOURCES.get(key, key)}, {which}" for key, which in columns)]
    return Table(head, rows, "Asked for and used")


def _ordered(keys: Iterable[str]) -> list[str]:
    found = set(keys)
    return [key for key in _RESOURCES if key in found] + sorted(found - set(_RESOURCES))


def _resource(key: str, value: Any) -> str:
    if not isinstance(value, (int, float)):
        return NOTHING if value is None else str(value)
    if key in ("memory", "disk", "gpu_memory"):
        return mib(value)
    return duration(value) if key.endswith("seconds") else number(value)


def of_cutflow(rows: Sequence[Sequence[str]]) -> Table:
    """Return the cut flow with a row a file, all of them first."""
    (_, *cuts), *of_files, total = zip(*rows, strict=True)
    counts = [[file, *map(_counted, flow)] for file, *flow in [total, *of_files]]
    return cut(Table(["File", *cuts], counts, "Events left after each cut"), "files, in cutflow.txt")


def _counted(cell: str) -> str:
    return f"{int(cell):,}" if cell.isdecimal() else cell


def of_inputs(inputs: Sequence[Mapping[str, Any]]) -> Table:
    """Return the input files."""
    rows = [
        [
            each["path"],
            each["label"],
            mib(each["bytes"] / 2**20),
            number(each["entries"]),
            number(each["entries_used"]),
            number(each["events_kept"]),
        ]
        for each in inputs
    ]
    head = ["File", "label", "size", "entries", "used", "events kept"]
    return cut(Table(head, rows), "files, in provenance.json")


def of_mapping(found: Mapping[str, Any], head: Sequence[str], caption: str = "") -> Table:
    """Return a mapping as two columns."""
    rows = [
        [str(key), number(value) if isinstance(value, int) else str(value)] for key, value in found.items()
    ]
    return cut(Table(head, rows, caption), "more")


def of_lost(lost: Sequence[Mapping[str, Any]]) -> Table:
    """Return the entries that could not be read."""
    rows = [
        [each["path"], f"{each['first_entry']:,} to {each['last_entry']:,}", each["reason"]] for each in lost
    ]
    return cut(
        Table(["File", "entries", "why"], rows, "Entries lost", text=True), "ranges, in provenance.json"
    )


def of_left_out(files: Sequence[Mapping[str, Any]]) -> Table:
    """Return the files that were left out."""
    rows = [[each["path"], f"about {each['entries']:,}", each["reason"]] for each in files]
    return cut(
        Table(["File", "entries", "why"], rows, "Files left out", text=True), "files, in provenance.json"
    )


def of_scan(rows: Sequence[Row], metric: str) -> Table:
    """Return the combinations of a scan, the chosen one with a star."""
    keys = list(rows[0].values)
    cells = [
        [
            "★" if row.chosen else "",
            *(str(row.values[key]) for key in keys),
            _mean(row.validation, row.validation_deviation),
            _mean(row.test, row.test_deviation),
        ]
        for row in rows
    ]
    head = ["", *keys, f"validation {metric}", f"test {metric}"]
    return cut(Table(head, cells, "The one with a star is the model of this report"), "more, in scan.json")


def _mean(value: float, deviation: float | None) -> str:
    known = number(None if math.isnan(value) else value)
    return known if deviation is None or math.isnan(deviation) else f"{known} ± {number(deviation, 2)}"


def of_folds(
    folds: Sequence[Mapping[str, Any]], together: Mapping[str, Any] | None, regression: bool
) -> Table:
    """Return the test metrics of each fold, and of all events together."""
    names = _REGRESSION if regression else _CLASSIFICATION
    called = [*((str(i), each) for i, each in enumerate(folds)), *([("all", together)] if together else [])]
    rows = [
        [name, number(each["events"]), *(number(each.get(key)) for key in names)] for name, each in called
    ]
    caption = "Events of the fold that tests, each scored by the training that did not see it"
    return Table(["Fold", "test events", *names.values()], rows, caption)


def cut(table: Table, more: str, most: int = MOST_ROWS) -> Table:
    """Return a table of at most so many rows; a last one says how many more there are, and of what."""
    if len(table.rows) <= most:
        return table
    last = [f"… and {len(table.rows) - most:,} {more}", *[""] * (len(table.head) - 1)]
    return Table(table.head, [*table.rows[:most], last], table.caption, table.text)
