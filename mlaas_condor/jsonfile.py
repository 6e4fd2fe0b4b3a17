"""Plain data that travels between the parts and with the jobs, as JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict


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
