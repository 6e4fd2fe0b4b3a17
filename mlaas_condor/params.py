"""params.json: which events, which branches, how to train. The only place where its keys are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mlaas_condor.jsonfile import Plain
from mlaas_condor.reading import nearest


def _all_or_some(value: int) -> int:
    if value < -1 or value == 0:
        raise ValueError(f"{value} does not do; give a number above 0, or -1 for all")
    return value


def _parse_names(value: object) -> object:
    """Turn ``""`` and a comma string into a list of names, each once; a lone name may be that of a file."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return list(dict.fromkeys(value))
    return value


def not_a_bool(value: object) -> object:
    """Refuse ``true`` where a number is meant: Python takes it for 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return value


def _parse_padding(value: object) -> object:
    """Take NaN, which is MLaaS4HEP's default, for no value."""
    text = value.strip().lower() if isinstance(value, str) else value
    return None if text in ("", "nan", "none") or text != text else value


Whole = Annotated[int, BeforeValidator(not_a_bool)]
Events = Annotated[Whole, AfterValidator(_all_or_some)]
Padding = Annotated[float | None, BeforeValidator(_parse_padding)]
Number = Annotated[float, BeforeValidator(not_a_bool)]
Share = Annotated[Number, Field(gt=0, lt=1)]
Length = Annotated[Whole, Field(ge=1, lt=2**31)]
Passes = Annotated[Whole, Field(ge=1)]
Names = Annotated[list[str], BeforeValidator(_parse_names, json_schema_input_type=str | list[str])]


class Metrics(Plain):
    """Options of the classification metrics."""

    threshold: float = Field(0.5, ge=0, le=1, description="score above which an event counts as signal")


class BadFiles(Plain):
    """What to do with entries that cannot be read."""

    skip: Share = Field(description="share of the events that may be lost to files that cannot be read")


class SplitFiles(Plain):
    """Which events are for validation and which for testing: a share, or the files that hold them."""

    validation: Share | Names = Field(
        0.2, description="share of the training events, or the input files (patterns) whose events are"
    )
    test: Share | Names = Field(
        0.2, description="share of all events, or the input files (patterns) whose events are"
    )


class EarlyStop(Plain):
    """When to stop before the last epoch."""

    patience: Passes = Field(description="epochs without an improvement that are borne")
    min_delta: Number = Field(0.0, ge=0, description="what counts as an improvement")


class Plateau(Plain):
    """When to learn in smaller steps."""

    patience: Passes = Field(3, description="epochs without an improvement that are borne")
    factor: Share = Field(0.5, description="what the learning rate is multiplied with")
    least: Number = Field(1e-6, gt=0, description="learning rate below which it is left alone")


class CheckpointEvery(Plain):
    """How often the training is brought to safety."""

    seconds: Number | None = Field(None, gt=0, description="seconds between two")
    epochs: Passes | None = Field(None, description="epochs between two")


def _parse_patience(value: object) -> object:
    return value if value is None or isinstance(value, (bool, Mapping, Plain)) else {"patience": value}


_REDIRECTOR = re.compile(
    r"(?:x?roots?|davs?)://(?:[\w.-]+|\[[0-9a-f:]+\])(?::(?:[1-5]?\d{1,4}|6[0-5]\d{3}))?(?:/.*)?", re.ASCII
)


def _parse_redirectors(value: object) -> object:
    names = ([value] if value else []) if isinstance(value, str) else value
    for name in names if isinstance(names, list) else ():
        if not isinstance(name, str) or not _REDIRECTOR.fullmatch(name):
            raise ValueError(f"{name!r} is no redirector; write root://host or root://host:port")
    if names is not None and not isinstance(names, list):
        raise ValueError(
            f"{names!r} is no redirector; write root://host or root://host:port, or a list of them"
        )
    return names or []


def _parse_plateau(value: object) -> object:
    return ({} if value else None) if isinstance(value, bool) else _parse_patience(value)


def _parse_every(value: object) -> object:
    return value if isinstance(value, (bool, Mapping, Plain)) else {"seconds": value}


def _parse_procedure(value: str) -> str:
    """Take ``Standard`` for what it means; every other word is MLaaS4HEP's procedure."""
    return "standard" if value.strip().lower() == "standard" else value


def _some_values(value: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for key, values in value.items():
        if not values:
            raise ValueError(f"{key!r} has no value to try")
        if key not in SCANNED and not key.startswith(MODEL_PREFIX):
            hint = nearest(key, SCANNED)
            raise ValueError(
                f"{key!r} cannot be scanned; {', '.join(SCANNED)} can, and arguments of the model "
                f"function, as model.width{f' ({hint})' if hint else ''}"
            )
    return value


SCANNED = ("batch_size", "class_weights", "epochs", "nan", "normalise", "seed", "training")
"""Keys of params.json that make another training on the same chunks."""

MODEL_PREFIX = "model."
"""Of a scanned key: the rest of it is an argument of the user's function ``model``."""

Stopping = Annotated[
    EarlyStop | None, BeforeValidator(_parse_patience, json_schema_input_type=int | EarlyStop | None)
]
Steps = Annotated[
    Plateau | None, BeforeValidator(_parse_plateau, json_schema_input_type=bool | int | Plateau | None)
]
Every = Annotated[
    CheckpointEvery, BeforeValidator(_parse_every, json_schema_input_type=float | CheckpointEvery)
]
Redirectors = Annotated[
    list[str], BeforeValidator(_parse_redirectors, json_schema_input_type=str | list[str] | None)
]
Scan = Annotated[dict[str, list[Any]], AfterValidator(_some_values)]


class Params(Plain):
    """params.json: which events, which branches, how to train."""

    nevts: Events = Field(-1, description="events to use in all files together, before cuts; -1: all")
    chunk_size: Events = Field(10_000, description="events a chunk; -1: one chunk with everything")
    shuffle: bool = Field(True, description="shuffle the events of a chunk")
    epochs: Whole = Field(10, ge=1, description="passes over the data")
    batch_size: Whole = Field(100, ge=1, description="events a step of the optimiser")
    identifier: Names = Field([], description="branches that name an event; never features")
    branch: str = Field("Events", min_length=1, description="path of the tree in ROOT files")
    selected_branches: Names = Field(
        [],
        description="branches to use (* at the end matches a prefix), or the name of a file with one a line",
    )
    exclude_branches: Names = Field([], description="branches to leave out, written like selected_branches")
    hist: str | None = Field(None, description="folder for one plot a feature")
    redirector: Redirectors = Field(
        [], description="XRootD redirector for paths that are not local; or several, in the order of trying"
    )
    training: Annotated[str, AfterValidator(_parse_procedure)] = Field(
        "per chunk",
        description="standard: every epoch runs over all chunks; else each chunk is trained in turn",
    )
    metrics: bool | Metrics = Field(False, description="options of the metrics, which are always computed")
    split: Share | SplitFiles = Field(
        0.2, description="share of the training events kept for validation; or the files for validation, test"
    )
    early_stop: Stopping = Field(
        None, description="stop after so many epochs without an improvement: 5, or with min_delta"
    )
    best_model: bool | None = Field(
        None,
        description="keep the model of the best epoch, not of the last; by default with early_stop",
    )
    monitor: Literal["val_loss", "val_auc"] = Field(
        "val_loss", description="what tells an improvement, on the validation events: val_loss or val_auc"
    )
    reduce_lr: Steps = Field(
        None, description="lower the learning rate when there is no improvement: true, patience, or an object"
    )
    class_weights: Literal["balanced"] | dict[str, Number] | None = Field(
        None, description="balanced: every class counts as much; or a factor for each label"
    )
    checkpoint: Every = Field(
        CheckpointEvery(seconds=1800),
        description="seconds, or {epochs: n}, after which the training is brought to safety, again and again",
    )
    scan: Scan = Field(
        {}, description="values to try, by key: batch_size, …, model.width; each combination is trained"
    )
    folds: Annotated[int, Field(ge=2, le=100), BeforeValidator(not_a_bool)] | None = Field(
        None, description="cross-validation: so many trainings, each with another part for testing"
    )
    nan: Padding = Field(None, description="value of the padding before normalising; none: 0 after it")
    verbose: Whole = Field(0, ge=0, le=2, description="how much the training log says")
    normalise: Literal["minmax", "standard", "robust", "none"] = Field(
        "minmax",
        description="minmax: to 0 … 1; standard: by mean and deviation; robust: by quartiles; none",
    )
    max_length: Length | dict[str, Length] | None = Field(
        None,
        description="cut the lists of jagged branches to this length: a number, or one for each pattern",
    )
    missing_branches: Literal["error", "nan"] = Field(
        "error", description="nan: a branch that a file does not have is padding there"
    )
    bad_files: Literal["error"] | BadFiles = Field(
        "error",
        description='error; {"skip": 0.02}: go on while less than this share of the events is lost',
    )
    seed: Whole = Field(21, ge=0, lt=2**32, description="seed of shuffling, splitting and training")
