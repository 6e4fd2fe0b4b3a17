"""Specs as MLaaS4HEP writes them: ``global-specs.json``, and a file of the same keys for each input file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlaas_condor.data.specs import BranchSpecs, Extent, Specs

_KEYS = ("jdim", "minv", "maxv", "fkeys", "jkeys")


def of_specs(specs: Specs, files: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``global-specs.json``.

    ``nans`` is the value of 0 after normalising. Branches without a finite value have range [0, 0].
    """
    extents = {
        name: Extent(length=branch.length, minimum=branch.minimum, maximum=branch.maximum)
        for name, branch in (*specs.flat.items(), *specs.jagged.items())
    }
    events = {**dict(zip(files, specs.events_of(len(files)), strict=True)), "total": specs.events}
    return of_extents(extents, list(specs.flat), events)


def of_extents(
    extents: Mapping[str, Extent], flat: Sequence[str], events: Mapping[str, int]
) -> dict[str, Any]:
    """Return specs of one file, or of all, from the extents of the branches."""
    low = {name: extent.minimum or 0.0 for name, extent in extents.items()}
    high = {name: extent.maximum or 0.0 for name, extent in extents.items()}
    return {
        "jdim": {name: extent.length for name, extent in extents.items() if name not in flat},
        "minv": low,
        "maxv": high,
        "fkeys": sorted(name for name in extents if name in flat),
        "jkeys": sorted(name for name in extents if name not in flat),
        "nans": {n: -low[n] / (high[n] - low[n]) if high[n] != low[n] else 0.0 for n in extents},
        "events": dict(events),
    }


def read(path: Path) -> Specs:
    """Read specs that a user gives: ours, or MLaaS4HEP's; their events are not taken over.

    Raises
    ------
    ValueError
        It is neither; says what is missing.
    OSError
        It cannot be read.
    """
    text = path.read_text("utf-8-sig")
    raw = json.loads(text)
    if not isinstance(raw, dict):
        raise ValueError(f"holds a {type(raw).__name__}, not an object {{…}}")
    if "kept" in raw:
        try:
            specs = Specs.model_validate_json(text)
        except ValidationError as error:
            raise _no_specs(error) from None
        # The types in which chunks store values must hold those of any other events too, and what was counted
        # was of those events.
        others = {"whole": False, "values": 0, "not_finite": 0}
        flat, jagged = (
            {name: branch.model_copy(update=others) for name, branch in branches.items()}
            for branches in (specs.flat, specs.jagged)
        )
        return Specs(flat=flat, jagged=jagged, kept=[])
    missing = [key for key in _KEYS if key not in raw]
    if missing:
        raise ValueError(f"are no specs: they have no {', '.join(missing)}")
    try:
        return Specs(
            flat={name: _branch(raw, name, 1) for name in raw["fkeys"]},
            jagged={name: _branch(raw, name, raw["jdim"][name]) for name in raw["jkeys"]},
            kept=[],
        )
    except KeyError as error:
        raise ValueError(f"are no specs: jdim, minv or maxv has no {error}") from None
    except ValidationError as error:
        raise _no_specs(error) from None
    except (TypeError, IndexError) as error:
        raise ValueError(f"are no specs: {error}") from None


def _no_specs(error: ValidationError) -> ValueError:
    first = error.errors()[0]
    return ValueError(f"are no specs: {'.'.join(map(str, first['loc']))}: {first['msg']}")


def _branch(raw: Mapping[str, Any], name: str, length: int) -> BranchSpecs:
    return BranchSpecs(length=length, minimum=raw["minv"][name], maximum=raw["maxv"][name])
