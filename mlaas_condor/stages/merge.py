"""The merge stage: join the partial specs, and cut the chunks.

``python -m mlaas_condor.stages.merge dataset.json plan.json SPECS_FOLDER`` writes ``specs.json``, and the
task lists of the stages that depend on what was measured, into ``output/merge/``.
"""

from __future__ import annotations

from pathlib import Path

from mlaas_condor import planning
from mlaas_condor.data import chunks, specs
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.features import Columns
from mlaas_condor.errors import DataFault, InputUnreadable
from mlaas_condor.stages.program import everything, log, main, mark
from mlaas_condor.stages.specs import part_name


def work(arguments: list[str], output: Path) -> None:
    """Join, plan, write."""
    dataset, plan = Dataset.read(Path(arguments[0])), planning.Plan.read(Path(arguments[1]))
    folder = Path(arguments[2])
    try:
        parts = [specs.Specs.read(folder / part_name(task)) for task in range(len(dataset.tasks))]
        merged = specs.of_dataset(dataset, parts)
    except (OSError, ValueError) as error:
        raise InputUnreadable(f"the partial specs in {folder} do not fit the plan: {error}") from error
    if not merged.events:
        raise DataFault(f"no event of {dataset.events} is kept: there is nothing to train on")
    columns = Columns.of(merged)
    if not len(columns):
        raise DataFault("no feature has a value in any event: all lists are empty")
    log.info("%d events, %d columns, %d chunks", merged.events, len(columns), _chunks(dataset, merged))
    merged.write(output / "specs.json")
    size = plan.size.model_copy(update={"events": merged.events, "columns": len(columns)})
    exact = planning.make(size, plan.wishes.for_data)
    units = {"preprocess": _chunks(dataset, merged), "train": 1}
    for stage, number in units.items():
        rows = planning.task_rows(exact.stage(stage), number)
        (output / f"{stage}.tasks").write_text("\n".join(rows) + "\n")
    mark(output, 0, everything(output))


def _chunks(dataset: Dataset, merged: specs.Specs) -> int:
    return chunks.count(merged.events, dataset.chunk_size)


if __name__ == "__main__":
    main("merge", work)
