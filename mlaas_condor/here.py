"""This machine as a place of runs: the pool that it reaches, and the folder that keeps them."""

from __future__ import annotations

from mlaas_condor import runs, workflow
from mlaas_condor.places import AnyRun, Started, Told
from mlaas_condor.planned import Planned
from mlaas_condor.runs import Run
from mlaas_condor.settings import Settings
from mlaas_condor.state import RunState


class Here:
    """Runs of this machine; what each method does, `places.Place` says.

    Parameters
    ----------
    settings
        Where the runs and the pool are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def kept(self) -> str:
        """The folder of the runs."""
        return f"in {self._settings.runs}"

    def look(self, job: str, proxy: str, lifetime_ok: bool, told: Told) -> Planned:
        """Check a request and plan it."""
        prepared = workflow.plan(job, self._settings, proxy, lifetime_ok)
        name = f"{prepared.request.job.name}_n"
        texts = workflow.submit_files(prepared, self._settings, name)
        return Planned.of(prepared, texts, self._settings.python)

    def start(self, job: str, proxy: str, lifetime_ok: bool, told: Told) -> Started:
        """Check a request, plan it and submit it."""
        prepared = workflow.plan(job, self._settings, proxy, lifetime_ok)
        told.warn(prepared.warnings)
        return Started(workflow.submit_prepared(prepared, self._settings), prepared.plan.size)

    def open_run(self, name: str) -> Run:
        """Open a run by its name."""
        return workflow.open_run(name, self._settings)

    def states(self) -> list[RunState]:
        """Return the states of all runs; the schedd is asked once."""
        return runs.states([run.folder for run in workflow.list_runs(self._settings)], self._settings)

    def without_pool(self, run: AnyRun) -> Run | None:
        """Return a run that this machine does without HTCondor."""
        return run if isinstance(run, Run) and run.folder.local_log.exists() else None
