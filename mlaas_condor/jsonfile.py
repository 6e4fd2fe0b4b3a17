"""Plain data that travels between the parts and with the jobs, as JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


def dumps(value: Any, indent: int | None = 1) -> str:
    """Return plain data as JSON: what is not finite becomes null, which every reader understands."""
    return json.dumps(_finite(value), indent=indent, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


class Plain(BaseModel):
    """Frozen data whose fields are all known."""

    # Infinity and NaN are no JSON, and nothing that takes a number here could use them.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class JsonFile(Plain):
    """Plain data that is a file of a run directory."""

    def write(self, path: Path) -> None:
        """Write as JSON; numbers read back are the same to the last bit."""
        path.write_text(self.model_dump_json(indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        return cls.model_validate_json(path.read_text("utf-8"))
