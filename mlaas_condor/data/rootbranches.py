"""The branches of a TTree and the fields of an RNTuple: which can be read, and why the others cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from mlaas_condor.data.source import FLAT, JAGGED, Branch

_NUMBERS = {"bool": "bool", "float": "float32", "double": "float64"}
_NUMBERS |= {f"std::{sign}int{bits}_t": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMBERS |= {f"ROOT::RNTupleCardinality<std::uint{bits}_t>": "int64" for bits in (32, 64)}
_VECTOR = re.compile(r"(?:std::vector|ROOT::VecOps::RVec)<(.+)>")
_NO_OFFSETS = 1  # ROOT's kGenerateOffsetMap: a list's length is only in its counter


def classify(found: Any) -> Iterator[tuple[str, Branch | str]]:
    """Yield the name of every leaf, and the branch, or why it is none that can be read."""
    if is_ntuple(found):
        yield from _classify_fields(found)
        return
    for name, branch in found.iteritems(recursive=True, full_paths=True, ignore_duplicates=False):
        if len(branch.branches):
            continue
        try:
            kind = _kind(name, branch)
        except Exception as error:
            kind = f"cannot be read: {first_line(error)}"
        yield name, kind


def _branch(name: str, kind: str, dtype: str, shape: Sequence[int] = ()) -> Branch | str:
    """Return a branch; one with a fixed number of numbers an event is read as a list of that length."""
    if kind == JAGGED and shape:
        return f"holds lists of {'x'.join(map(str, shape))} numbers each"
    known: Literal["flat", "jagged"] = "jagged" if kind == JAGGED or shape else "flat"
    return Branch(name, known, dtype, int(np.prod(shape)) if shape else 0)


def _kind(name: str, branch: Any) -> Branch | str:
    """Tell flat, jagged or the reason to leave out, and the dtype, from uproot's interpretation."""
    import uproot

    interpretation = branch.interpretation
    numeric = (uproot.AsDtype, uproot.interpretation.numerical.TruncatedNumerical)
    jagged = isinstance(interpretation, uproot.AsJagged)
    content = interpretation.content if jagged else interpretation
    if not isinstance(content, numeric):
        return _holds(getattr(interpretation, "typename", None) or type(interpretation).__name__)
    dtype = np.dtype(content.to_dtype)
    if dtype.fields is not None:
        return "holds a structure"
    if jagged and _lengths_are_elsewhere(branch):
        counter = branch.count_branch.name
        return f"cannot be read: the lengths of its lists are those of {counter!r}, in other portions"
    return _branch(name, JAGGED if jagged else FLAT, dtype.base.newbyteorder("=").name, dtype.shape)


def _lengths_are_elsewhere(branch: Any) -> bool:
    """Tell of a branch without offsets of its own, where uproot fails unless the counter's baskets match."""
    if branch.count_branch is None or not branch.has_member("fIOFeatures"):
        return False
    if not branch.member("fIOFeatures").member("fIOBits") & _NO_OFFSETS:
        return False
    return list(branch.entry_offsets) != list(branch.count_branch.entry_offsets)


def _holds(typename: str) -> str:
    if typename in ("char*", "string", "std::string", "TString"):
        return "holds text"
    return "is of an unknown type" if typename == "unknown" else f"holds {typename}"


def _classify_fields(ntuple: Any) -> Iterator[tuple[str, Branch | str]]:
    """Tell the fields of an RNTuple apart by their C++ types, the others by how uproot lays them out."""
    kinds: dict[str, Branch | str] = {}
    others = []
    for field in ntuple.fields:
        vector = _VECTOR.fullmatch(str(field.typename))
        number = _NUMBERS.get(vector[1] if vector else str(field.typename))
        if number:
            kinds[field.name] = _branch(field.name, JAGGED if vector else FLAT, number)
        elif not field.typename:
            kinds[field.name] = "holds structures"
        else:
            others.append(field)
    if others:
        kinds |= _kinds_of_layouts(ntuple, others)
    yield from kinds.items()


def _kinds_of_layouts(ntuple: Any, fields: Sequence[Any]) -> dict[str, Branch | str]:
    # All at once, as each time uproot goes through all fields; by halves where it does not know one.
    names = {field.name for field in fields}
    try:
        types = ntuple.to_akform(filter_field=lambda each: each.path in names)[0].type
        return {field.name: _kind_of_layout(field, types.content(field.name)) for field in fields}
    except Exception as error:
        half = len(fields) // 2
        if not half:
            return {name: f"cannot be read: {first_line(error)}" for name in names}
        return _kinds_of_layouts(ntuple, fields[:half]) | _kinds_of_layouts(ntuple, fields[half:])


def _kind_of_layout(field: Any, kind: Any) -> Branch | str:
    import awkward as ak

    inner, shape = kind, []
    if isinstance(inner, ak.types.ListType):
        inner = inner.content
    while isinstance(inner, ak.types.RegularType):
        shape.append(int(inner.size))
        inner = inner.content
    if isinstance(inner, ak.types.NumpyType) and not inner.parameters and not kind.parameters:
        jagged = isinstance(kind, ak.types.ListType)
        return _branch(field.name, JAGGED if jagged else FLAT, inner.primitive, shape)
    return _holds(str(field.typename))


def is_ntuple(found: Any) -> bool:
    """Tell whether what was found in a file is an RNTuple."""
    import uproot

    return isinstance(found, uproot.behaviors.RNTuple.RNTuple)


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
