"""The report: one HTML page that says how good a training is, and what it was made of.

It needs nothing beside itself: the pictures are within it, there are no scripts, and nothing is loaded.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jinja2

from mlaas_condor.training.comparison import Comparison, written
from mlaas_condor.training.curves import SIGNAL_EFFICIENCIES
from mlaas_condor.training.models import Framework
from mlaas_condor.training.recipe import Task
from mlaas_condor.training.report import tables
from mlaas_condor.training.report.pictures import EXPLAINED
from mlaas_condor.training.report.tables import Table, duration, number
from mlaas_condor.training.scan import Row

_SCALE = 0.7  # of a picture's pixels: with them its letters are as large as those of the page
_HEADLINE_EFFICIENCY = SIGNAL_EFFICIENCIES[1]
_FRAMEWORKS: dict[Framework, tuple[str, tuple[str, ...]]] = {
    "keras": ("Keras", ("keras", "tensorflow")),
    "keras2": ("Keras 2", ("tf-keras", "tensorflow")),
    "torch": ("PyTorch", ("torch",)),
    "sklearn": ("scikit-learn", ("scikit-learn",)),
    "xgboost": ("XGBoost", ("xgboost", "xgboost-cpu")),
}


@dataclass(frozen=True)
class Content:
    """All that goes on the page.

    Parameters
    ----------
    name, made
        Of the run; when, as ISO 8601.
    task, framework, classes
        What was learnt; what trained it, in words; names of the classes, none for a regression.
    metrics
        Of ``train``, ``validation`` and ``test``.
    history
        What each pass gave.
    provenance, plan, request
        Content of the files of these names.
    cutflow
        What ``data.cutflow.table`` returned.
    model
        Name and text of the user's model file.
    overtraining
        What ``comparison.overtraining`` returned.
    pictures
        PNG files by name, as ``pictures.draw`` returned them.
    resources
        Of each stage that it is known of: ``stage``, ``asked`` and ``used``. ``memory`` and ``disk`` are in
        MiB, ``seconds`` and ``cpu_seconds`` in seconds; what else there is, is shown as it is.
    scan
        What ``scan.rows`` returned; shown where there are several combinations.
    folds, cross_validated
        Test metrics of each fold, and of the events of all folds together.
    onnx
        What ``onnx.export`` returned; empty where it was not tried.
    branches
        A sentence that says where pictures of the branches are; empty for none.
    """

    name: str
    made: str
    task: Task
    framework: str
    classes: Sequence[str]
    metrics: Mapping[str, Mapping[str, Any]]
    history: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    plan: Mapping[str, Any]
    request: Mapping[str, Any]
    cutflow: Sequence[Sequence[str]]
    model: tuple[str, str]
    overtraining: Mapping[str, Comparison] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    resources: Sequence[Mapping[str, Any]] = ()
    scan: Sequence[Row] = ()
    folds: Sequence[Mapping[str, Any]] = ()
    cross_validated: Mapping[str, Any] | None = None
    onnx: Mapping[str, Any] = field(default_factory=dict)
    branches: str = ""

    @property
    def regression(self) -> bool:
        """Whether a number was learnt."""
        return self.task == "regression"


@dataclass(frozen=True)
class Picture:
    """A picture, as a data URI."""

    title: str
    how: str
    data: str
    width: int
    height: int
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True)
class Text:
    """A file, shown as it is."""

    caption: str
    content: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Section:
    """A section of the page; one without parts is left out."""

    title: str
    parts: Sequence[Picture | Table | Text]
    words: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        """Its name in the address of the page."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Fact:
    """A number of the headline."""

    name: str
    value: str
    note: str = ""


def framework(name: Framework, versions: Mapping[str, str]) -> str:
    """Return a framework as people call it, with the versions of its packages as far as they are known."""
    called, packages = _FRAMEWORKS[name]
    known = [f"{package} {versions[package]}" for package in packages if versions.get(package)]
    return f"{called} ({', '.join(known)})" if known else called


def write(path: Path, content: Content) -> None:
    """Write the page; whatever the user named is shown as text, and is never markup."""
    template = resources.files("mlaas_condor.training.report").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    sections = [section for section in _sections(content) if section.parts]
    what = f"regression of {_target(content)}" if content.regression else f"{len(content.classes)} classes"
    page = environment.from_string(template).render(
        title=content.name,
        subtitle=f"{content.framework}, {what}. {content.made.replace('T', ' ')[:16]} UTC.",
        facts=_regression_facts(content) if content.regression else _facts(content),
        sections=sections,
    )
    path.write_text(page + "\n", "utf-8")


def _target(content: Content) -> str:
    labels = content.request.get("job", {}).get("labels")
    return labels if isinstance(labels, str) else "a branch"


def _facts(content: Content) -> list[Fact]:
    test = content.metrics["test"]
    where = f"test events, at the threshold {test['threshold']:g}"
    facts = [
        Fact("Test AUC", number(test["auc"]), f"on {test['events']:,} events the training never saw"),
        Fact("Accuracy", number(test["accuracy"], 3), where if len(content.classes) == 2 else "test events"),
    ]
    p_values = {content.classes[int(k)]: each["p_value"] for k, each in content.overtraining.items()}
    known = {name: p for name, p in p_values.items() if p is not None}
    if known:
        # Of many classes the one that differs most.
        told = known if len(known) == 2 else dict([min(known.items(), key=lambda each: each[1])])
        least = "" if told is known else "least "
        note = f"{least}Kolmogorov-Smirnov p-value, of {' / '.join(told)}"
        facts.append(Fact("Training against test", " / ".join(map(written, told.values())), note))
    if len(test.get("rejection", {})) == 1:
        (points,) = test["rejection"].values()
        at = next(each for each in points if each["signal_efficiency"] == _HEADLINE_EFFICIENCY)
        where = f"at {100 * _HEADLINE_EFFICIENCY:.0f} % signal efficiency"
        note = f"{where}, {at['background_events']:,} events pass"
        facts.append(Fact("Background rejection", number(at["rejection"], 3), note))
    return [*facts, _trained(content)]


def _regression_facts(content: Content) -> list[Fact]:
    test = content.metrics["test"]
    return [
        Fact("Test RMSE", number(test["rmse"]), f"on {test['events']:,} events the training never saw"),
        Fact("Mean residual", number(test["bias"], 3), "predicted minus true, test events"),
        Fact("R²", number(test["r2"]), "test events"),
        _trained(content),
    ]


def _trained(content: Content) -> Fact:
    seconds = sum(entry.get("seconds") or 0.0 for entry in content.history)
    best = [entry["epoch"] for entry in content.history if entry.get("best")]
    in_turn = any(entry.get("chunk") is not None for entry in content.history)
    number_of = len(content.history)
    passes = "passes over a chunk" if in_turn else "epoch" if number_of == 1 else "epochs"
    note = f"in {number_of} {passes}, {duration(seconds)}"
    if best:
        note += f"; the model is of epoch {best[0]}"
    return Fact("Training events", number(content.metrics["train"]["events"]), note)


def _sections(content: Content) -> list[Section]:
    return [
        _performance(content),
        _classes(content),
        _training(content),
        _scan(content),
        _branches(content),
        _events(content),
        _jobs(content),
        _software(content),
        _wishes(content),
    ]


def _performance(content: Content) -> Section:
    test = content.metrics["test"]
    parts: list[Any] = [tables.of_metrics(content.metrics, content.classes)]
    words = [
        "Events for training, validation and testing were set apart before the training. Nothing was decided "
        "by the test events."
    ]
    if content.regression:
        return Section("Performance", [*parts, *_pictures(content, "residuals")], words)
    if len(content.classes) > 2:
        parts.append(tables.of_classes(test, content.classes))
    else:
        words.append(
            "The best threshold is that of the largest g-mean, the root of signal efficiency times "
            "1 - background efficiency."
        )
    parts += _pictures(content, "roc")
    rejection = tables.of_rejection(test, content.classes)
    if rejection:
        words.append(
            "Background rejection is 1 over the background efficiency; its relative error is about 1 over "
            "the root of the number of background events that pass."
        )
        parts.append(rejection)
    return Section("Performance", [*parts, *_pictures(content, "precision_recall")], words)


def _classes(content: Content) -> Section:
    if content.regression:
        return Section("Scores and classes", [])
    test = content.metrics["test"]
    found = [
        *_pictures(content, "scores"),
        tables.of_overtraining(content.overtraining, content.classes) if content.overtraining else None,
        *_pictures(content, "confusion_matrix"),
        tables.of_confusion(test, content.classes),
        tables.of_report(test, content.classes),
    ]
    return Section("Scores and classes", [part for part in found if part is not None])


def _training(content: Content) -> Section:
    return Section("Training", _pictures(content, "learning_curves"))


def _scan(content: Content) -> Section:
    metric = "RMSE" if content.regression else "AUC"
    parts: list[Any] = _pictures(content, "scan")
    parts += [tables.of_scan(content.scan, metric)] if len(content.scan) > 1 else []
    parts += _pictures(content, "folds")
    if content.folds:
        parts.append(tables.of_folds(content.folds, content.cross_validated, content.regression))
    return Section("Scan and folds", parts)


def _branches(content: Content) -> Section:
    words = [content.branches] if content.branches else []
    return Section("Branches", _pictures(content, "importance", "features"), words)


def _events(content: Content) -> Section:
    known = content.provenance
    parts = [tables.of_cutflow(content.cutflow), tables.of_inputs(known.get("inputs", ()))]
    parts += [tables.of_lost(known["lost"])] if known.get("lost") else []
    parts += [tables.of_left_out(known["left_out"])] if known.get("left_out") else []
    if known.get("not_finite"):
        caption = "Values that are NaN or infinite, which became padding"
        parts.append(tables.of_mapping(known["not_finite"], ["Branch", "values"], caption))
    return Section("Events", parts)


def _jobs(content: Content) -> Section:
    parts = [tables.of_plan(content.plan["stages"])] if content.plan.get("stages") else []
    parts += [tables.of_resources(content.resources)] if content.resources else []
    return Section("Jobs", parts)


def _software(content: Content) -> Section:
    known = content.provenance
    versions = {name: version for name, version in known.get("versions", {}).items() if version}
    keys = {
        "seed": str(known.get("seed", "")),
        "key of the specs": known.get("specs_key", ""),
        "key of the chunks": known.get("chunks_key", ""),
    }
    there = {name: value for name, value in keys.items() if value}
    parts = [tables.of_mapping(versions, ["Package", "version"]), tables.of_mapping(there, ["", "value"])]
    return Section("Software", parts, [_onnx(content.onnx)] if content.onnx else [])


def _onnx(found: Mapping[str, Any]) -> str:
    if not found.get("file"):
        return f"There is no ONNX file of the model: {found.get('reason', 'not known why')}."
    return (
        f"{found['file']} is the model as ONNX; on {number(found['events'])} events its predictions differ "
        f"by {number(found['largest_difference'], 2)} at most."
    )


def _wishes(content: Content) -> Section:
    name, text = content.model
    request = json.dumps(content.request, indent=1, ensure_ascii=False)
    return Section("Request", [Text("Request, with defaults", request), Text(name, text)])


def _pictures(content: Content, *names: str) -> list[Picture]:
    return [_picture(name, content.pictures[name]) for name in names if name in content.pictures]


def _picture(name: str, path: Path) -> Picture:
    title, how = EXPLAINED[name]
    data = path.read_bytes()
    # The first chunk of a PNG file, IHDR, has its size.
    width, height = (round(_SCALE * pixels) for pixels in struct.unpack(">II", data[16:24]))
    return Picture(title, how, f"data:image/png;base64,{base64.b64encode(data).decode()}", width, height)
