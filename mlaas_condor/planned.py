"""A plan as plain data: what ``plan`` shows, and what a service answers when it is asked for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from mlaas_condor.data.dataset import Dataset
from mlaas_condor.errors import MlaasError
from mlaas_condor.planning import Plan
from mlaas_condor.training.recipe import Recipe

if TYPE_CHECKING:
    from mlaas_condor.prepare import Prepared


@dataclass(frozen=True)
class Planned:
    """What would be submitted.

    Parameters
    ----------
    plan, dataset, recipe
        What the jobs would do; of the dataset all but how the entries are shared out.
    framework
        What trains the model.
    left_out
        Branches that cannot be features, with the reason.
    credentials, storage
        What jobs read remote files with, and the same in a sentence; empty where nobody is asked.
    warnings
        What the user should know.
    submit_files
        What HTCondor would get, by file name.
    python
        The Python of the jobs.
    """

    plan: Plan
    dataset: Dataset
    recipe: Recipe
    framework: str
    left_out: Mapping[str, str]
    credentials: Mapping[str, Any]
    storage: str
    warnings: list[str]
    submit_files: Mapping[str, str]
    python: str

    @classmethod
    def of(cls, prepared: Prepared, submit_files: Mapping[str, str], python: str) -> Self:
        """Return what is to be told of a prepared request."""
        return cls(
            plan=prepared.plan,
            dataset=prepared.dataset,
            recipe=prepared.recipe,
            framework=prepared.model.framework,
            left_out=prepared.left_out,
            credentials=prepared.access.credentials(None).model_dump(),
            storage=str(prepared.access),
            warnings=prepared.warnings,
            submit_files=submit_files,
            python=python,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain dicts and lists, for JSON."""
        return {
            "plan": self.plan.model_dump(),
            "dataset": self.dataset.model_dump(exclude={"tasks"}),
            "recipe": self.recipe.model_dump(),
            "framework": self.framework,
            "left_out": dict(self.left_out),
            "credentials": dict(self.credentials),
            "storage": self.storage,
            "warnings": list(self.warnings),
            "submit_files": dict(self.submit_files),
            "python": self.python,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` gave, and JSON has brought here.

        Raises
        ------
        MlaasError
            It is of another version.
        """
        try:
            return cls(
                plan=Plan.model_validate(content["plan"]),
                dataset=Dataset.model_validate({**content["dataset"], "tasks": []}),
                recipe=Recipe.model_validate(content["recipe"]),
                **{name: content[name] for name in _PLAIN},
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise MlaasError(
                "the plan cannot be understood: is the service of another version? --json shows it as it came"
            ) from error


_PLAIN = ("framework", "left_out", "credentials", "storage", "warnings", "submit_files", "python")
