"""What the user wrote: reads job.json, the only place where its keys are known, and what it names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from mlaas_condor.confinement import Confinement, odd_text
from mlaas_condor.errors import Problem, RequestError
from mlaas_condor.jsonfile import Plain
from mlaas_condor.params import (
    BadFiles,
    CheckpointEvery,
    EarlyStop,
    Metrics,
    Params,
    Plateau,
    SplitFiles,
    not_a_bool,
)
from mlaas_condor.reading import content_lines, join_path, nearest, read_json

# Keys of old job files that say where the old server's host kept things; nothing here needs them.
IGNORED_KEYS = ("host_folder", "cert_folder", "fout")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?b)?")
_MEBIBYTE = 2**20
_MOST = 1e15  # beyond any machine; keeps the arithmetic finite


def parse_size(value: object) -> int:
    """Return a memory or disk size in MiB, rounded up.

    ``"500m"``, ``"3gb"``, ``"1.5 GiB"`` are powers of 1024. A bare number is MiB as in an HTCondor
    submit file, unless it is 1048576 or more: then it is bytes, as container tools have it.
    """
    text = str(value).strip().lower()
    match = _SIZE.fullmatch(text)
    number = float(match[1]) if match else 0.0
    if isinstance(value, bool) or not match or not 0 < number < _MOST:
        raise ValueError(f"{value!r} is not a size; write a number with a unit, such as 500m or 3gb")
    bare = not match[2] and not match[3]
    scale = _UNITS[match[2] or ("m" if bare and number < _MEBIBYTE else "b")]
    return max(1, -(-int(number * scale) // _MEBIBYTE))


def _parse_cpus(value: object) -> int:
    try:
        cpus = float(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a number of CPUs") from None
    if isinstance(value, bool) or not 0 < cpus < 10_000:
        raise ValueError(f"{value!r} is not a number of CPUs")
    return max(1, -int(-cpus // 1))


def _parse_name(value: object) -> object:
    if isinstance(value, str) and not NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} cannot name a run; use letters, digits and _ . + -, beginning with a letter or digit"
        )
    return value


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str | float)]
Cpus = Annotated[int, BeforeValidator(_parse_cpus, json_schema_input_type=str | float)]
Service = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(\*[A-Za-z0-9_.-]+)?$")]
Jobs = Annotated[int, Field(ge=1), BeforeValidator(not_a_bool)]
Gpus = Annotated[int, Field(ge=1, le=64), BeforeValidator(not_a_bool)]


_K = TypeVar("_K", bound=Plain)


class Tasks(Plain):
    """How many jobs a stage is split into, where the plan's own choice does not suit."""

    specs: Jobs | None = Field(None, description="jobs that measure the inputs")
    preprocess: Jobs | None = Field(None, description="jobs that make the chunks")


class Job(Plain):
    """job.json: which files, which labels, which model, and what the jobs may use."""

    name: Annotated[str, BeforeValidator(_parse_name)] = Field(description="a run is called `<name>_<n>`")
    files: str | list[str] = Field(
        min_length=1, description="file with one input file a line, or the list itself"
    )
    labels: str | list[str | int | float] = Field(
        min_length=1, description="file with one class label a line, the list itself, or a branch"
    )
    model: str = Field(min_length=1, description="Python file with def model(idim)")
    params: str | Params = Field(Params(), description="params.json, or its content")
    task: Literal["classification", "regression"] = Field(
        "classification", description="regression: the label is a branch of floats, which the model estimates"
    )
    weights: str | list[str | int | float] | None = Field(
        None, description="weight of the events: a branch, a file with one number an input file, or the list"
    )
    preproc: str | None = Field(
        None, description="new branches and cuts (preproc.json); or a Python file with def preprocessing(rec)"
    )
    specs: str | None = Field(None, description="specs (or global-specs.json) to use instead of measuring")
    device: Literal["cpu", "gpu"] = Field("cpu", description="where the training runs")
    gpus: Gpus | None = Field(None, description="GPUs of the training job")
    gpu_memory: Size | None = Field(None, description="least memory of a GPU, such as 16gb")
    gpu_capability: float | None = Field(
        None, gt=0, description="least CUDA capability of a GPU, such as 8.0"
    )
    memory: Size | None = Field(None, description="memory of the training job, such as 3gb")
    cpus: Cpus | None = Field(None, description="CPUs of the training job")
    disk: Size | None = Field(None, description="disk of the training job, such as 10gb")
    x509_proxy: str | None = Field(
        None, min_length=1, description="proxy to read remote files with; X509_USER_PROXY otherwise"
    )
    oauth_services: list[Service] = Field(
        [], description="tokens of these names, which the pool itself keeps fresh for the jobs"
    )
    chunk_store: str | None = Field(
        None, min_length=1, description="keep the chunks on storage, root://…/folder, not on the access point"
    )
    tasks: Tasks = Field(Tasks(), description="jobs of a stage, where the plan's choice does not suit")

    @property
    def gpus_wanted(self) -> int:
        """GPUs that the training job asks for."""
        return self.gpus or (1 if self.device == "gpu" else 0)


@dataclass
class Request:
    """A request as read, with what is wrong with it so far.

    Reading never stops at the first mistake: what cannot be used is listed in ``problems`` and left at
    its default, so that the checks which follow can still find the others. ``check`` ends it.

    Parameters
    ----------
    job, params
        The validated content.
    folder
        Folder to which file names are relative.
    problems, warnings
        What makes the request unusable; what the user should know.
    sources
        Each text as read: ``job.json``, ``params.json``.
    proxy_named_by
        Where ``job.x509_proxy`` was named, if it was.
    within
        What it may reach, where it came from a stranger; None for everything.
    """

    job: Job
    params: Params
    folder: Path
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    proxy_named_by: str = "x509_proxy in job.json"
    within: Confinement | None = None

    @classmethod
    def load(cls, given: Request | str | Path | Mapping[str, Any]) -> Request:
        """Return a request: as it is, read from a job file, or made of a job file's content."""
        if isinstance(given, Request):
            return given
        return cls.of(given) if isinstance(given, Mapping) else cls.read(given)

    @classmethod
    def read(cls, path: str | Path) -> Request:
        """Read a job file and its params file; mistakes go to ``problems``."""
        path = Path(path)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir fails for a name that is too long
            path = path / "job.json"
        problems: list[Problem] = []
        text, raw = read_json(path, problems)
        if raw is None:
            raise RequestError(problems)
        request = cls.of(raw, folder=path.absolute().parent, where=path.name, text=text)
        request.problems[:0] = problems
        return request

    @classmethod
    def of(
        cls,
        raw: Mapping[str, Any],
        folder: str | Path = ".",
        where: str = "job",
        text: str = "",
        within: Confinement | None = None,
    ) -> Request:
        """Make a request of the content of a job file.

        Parameters
        ----------
        raw
            What job.json holds; ``params`` may be the content of params.json itself.
        folder
            Folder to which file names are relative.
        where, text
            Name and text of the job file, for messages that give a line.
        within
            What it may reach, where it comes from a stranger.
        """
        folder = Path(folder).resolve() if within else Path(folder).absolute()
        problems: list[Problem] = []
        sources = {"job.json": text or json.dumps(dict(raw), indent=1, default=str)}
        raw = dict(raw)
        warnings = [f"{where}: {key!r} is not needed here, ignored" for key in IGNORED_KEYS if key in raw]
        raw = {key: value for key, value in raw.items() if key not in IGNORED_KEYS}
        params_raw, params_where, params_text = raw.pop("params", {}), f"{where}: params", ""
        if isinstance(params_raw, str) and params_raw:
            params_where = params_raw
            params_text, params_raw = _read_params(folder, params_raw, within, problems)
            sources["params.json"] = params_text
        elif params_raw and not isinstance(params_raw, Mapping):
            problems.append(
                Problem(params_where, f"{params_raw!r} is neither a file name nor an object {{…}}")
            )
            params_raw = {}
        if within and odd_text([raw, params_raw]):
            what = "holds characters that no text has: half of one (\\ud800, say), or a zero byte"
            raise RequestError([Problem(where, what)])
        params = _validate(Params, params_raw or {}, params_where, params_text, problems)
        job = _validate(Job, raw, where, text, problems)
        request = cls(job, params, folder, problems, warnings, sources, within=within)
        if within:
            request._confine(within)
        request._expand_branch_files()
        return request

    def path(self, name: str) -> Path:
        """Return the path of a file that the request names; one where nothing is, if it may not name it."""
        return self.within.find(self.folder, name) if self.within else join_path(self.folder, name)

    def pattern(self, name: str) -> str:
        """Return the whole path of a pattern that the request gives for files on the access point."""
        followed = self.within.pattern(self.folder, name) if self.within else ""
        return followed or str(self.path(name))

    def _confine(self, within: Confinement) -> None:
        """Make problems of all that the keys name and must not; it is taken for not given."""
        job, params, hint = self.job, self.params, "delegate a proxy instead: mlaas-condor proxy delegate"
        kept: dict[str, Any] = {"x509_proxy": None, "oauth_services": []}
        for key in ("files", "labels", "model", "weights", "preproc", "specs"):
            name = getattr(job, key)
            if isinstance(name, str) and self._refuses(f"job.json: {key}", name):
                kept[key] = "" if key in ("files", "labels", "model") else None
        if job.x509_proxy:
            self.problems.append(
                Problem("job.json: x509_proxy", "names a file of the service's machine", hint)
            )
        if job.oauth_services and not within.own_account:
            what = "the tokens that the pool keeps are those of the service, not yours"
            self.problems.append(Problem("job.json: oauth_services", what, hint))
        if self._refuses("job.json: chunk_store", job.chunk_store, is_url=True):
            kept["chunk_store"] = None
        self.job = job.model_copy(update=kept)
        kept = {"hist": None} if self._refuses("params.json: hist", params.hist) else {}
        for key in ("selected_branches", "exclude_branches"):
            names = getattr(params, key)
            if len(names) == 1 and self._refuses(f"params.json: {key}", names[0]):
                kept[key] = []
        kept["redirector"] = [
            each
            for each in params.redirector
            if not self._refuses("params.json: redirector", each, is_url=True)
        ]
        self.params = params.model_copy(update=kept)
        split = params.split if isinstance(params.split, SplitFiles) else SplitFiles()
        for key, patterns in (("validation", split.validation), ("test", split.test)):
            for each in patterns if isinstance(patterns, list) else ():
                self._refuses(f"params.json: split.{key}", each, is_url="://" in each)

    def _refuses(self, where: str, name: str | None, is_url: bool = False) -> bool:
        """Make a problem of what the request must not name; tell whether it is."""
        if not name or not self.within:
            return False
        what, hint = self.within.wrong_url(name) if is_url else self.within.wrong_path(self.folder, name)
        self.problems += [Problem(where, what, hint)] if what else []
        return bool(what)

    def check(self) -> None:
        """Raise `RequestError` with every problem found, if there is one."""
        if self.problems:
            raise RequestError(self.problems)

    def _expand_branch_files(self) -> None:
        for key in ("selected_branches", "exclude_branches"):
            names = getattr(self.params, key)
            path = self.path(names[0]) if len(names) == 1 and "*" not in names[0] else None
            if path is None or not os.path.isfile(path):  # noqa: PTH113 - Path.is_file fails for long names
                continue
            try:
                lines = list(dict.fromkeys(content_lines(path.read_text("utf-8-sig"))))
            except (OSError, UnicodeDecodeError) as error:
                self.problems.append(Problem(f"params.json: {key}: {names[0]}", f"cannot be read: {error}"))
                continue
            if not lines:
                self.problems.append(Problem(f"params.json: {key}: {names[0]}", "has no branch in it"))
            self.params = self.params.model_copy(update={key: lines})


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of job.json; params.json is its definition ``Params``."""
    schema = Job.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mlaas-condor job.json"
    return schema


def _read_params(
    folder: Path, name: str, within: Confinement | None, problems: list[Problem]
) -> tuple[str, dict[str, Any] | None]:
    """Read the file of the parameters, if it may be read."""
    what, hint = within.wrong_path(folder, name) if within else ("", "")
    if what:
        problems.append(Problem("job.json: params", what, hint))
        return "", None
    return read_json(within.find(folder, name) if within else join_path(folder, name), problems)


def _validate(kind: type[_K], raw: Mapping[str, Any], where: str, text: str, problems: list[Problem]) -> _K:
    """Validate; on mistakes list them, drop the keys concerned and go on with the rest."""
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        details = [each for each in error.errors() if each["loc"]]
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for detail in details:
        by_key.setdefault(str(detail["loc"][0]), []).append(detail)
    for key, found in by_key.items():
        line = next((n for n, each in enumerate(text.splitlines(), 1) if f'"{key}"' in each), None)
        place = where if found[0]["type"] == "missing" or not line else f"{where}:{line}"
        problems += [Problem(place, *each) for each in _describe(kind, key, found, raw.get(key))]
    rest = {key: value for key, value in raw.items() if key not in by_key}
    missing = {
        name: "" for name, info in kind.model_fields.items() if info.is_required() and name not in rest
    }
    kept = kind.model_validate({**rest, **dict.fromkeys(missing, "missing")})
    return kept.model_copy(update=missing)


def _describe(
    kind: type[Plain], key: str, details: list[Mapping[str, Any]], value: object
) -> Iterable[tuple[str, str]]:
    """Yield (what is wrong, hint) for the mistakes under one key."""
    first = details[0]
    unknown = [each for each in details if each["type"] == "extra_forbidden"]
    if unknown and len(unknown[0]["loc"]) == 1:
        yield f"unknown key {key!r}", _where_it_belongs(kind, key)
    elif unknown:
        inside = _INSIDE[key].model_fields
        for each in unknown:
            name = str(each["loc"][-1])
            yield f"{key}: unknown key {name!r}", nearest(name, inside)
    elif first["type"] == "missing":
        yield f"{key!r} is missing", kind.model_fields[key].description or ""
    elif first["type"] == "value_error":
        yield f"{key}: {first['ctx']['error']}", ""
    elif len({each["loc"][1] for each in details if len(each["loc"]) > 1}) > 1:
        # Each way in which a value could be right says why it is not; what the key means says it better.
        yield f"{key}: {value!r} does not do", kind.model_fields[key].description or ""
    else:
        message = str(first["msg"])
        inner = "".join(f".{part}" for part in first["loc"][1:] if isinstance(part, str) and part in _SUBKEYS)
        yield f"{key}{inner}: {first['input']!r} does not do: {message[:1].lower()}{message[1:]}", ""


_INSIDE: Mapping[str, type[Plain]] = {
    "metrics": Metrics,
    "tasks": Tasks,
    "bad_files": BadFiles,
    "split": SplitFiles,
    "early_stop": EarlyStop,
    "reduce_lr": Plateau,
    "checkpoint": CheckpointEvery,
}
_SUBKEYS = {name for inside in _INSIDE.values() for name in inside.model_fields}


def _where_it_belongs(kind: type[Plain], key: str) -> str:
    """Return a hint for a key that is not known: the other file's, or the nearest ones."""
    other, name = (Params, "params.json") if kind is Job else (Job, "job.json")
    return f"it belongs into {name}" if key in other.model_fields else nearest(key, kind.model_fields)
