"""params.json: which events, which branches, how to train. The only place where its keys are known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mlaas_condor.jsonfile import Plain


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
Length = Annotated[Whole, Field(ge=1)]
Passes = Annotated[Whole, Field(ge=1)]
Names = Annotated[list[str], BeforeValidator(_parse_names, json_schema_input_type=str | list[str])]


class Metrics(Plain):
    """Options of the classification metrics."""

    threshold: float = Field(0.5, ge=0, le=1, description="score above which an event counts as signal")


class BadFiles(Plain):
    """What to do with entries that cannot be read."""

    skip: Share = Field(description="share of the events that may be lost to files that cannot be read")


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
    redirector: str | None = Field(None, description="XRootD redirector for paths that are not local")
    training: str = Field(
        "per chunk",
        description="standard: every epoch runs over all chunks; else each chunk is trained in turn",
    )
    metrics: bool | Metrics = Field(False, description="options of the metrics, which are always computed")
    split: float = Field(0.2, gt=0, lt=1, description="share of the training events kept for validation")
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
