"""A run directory's DAG and submit files, made from ``submit_templates/``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlaas_condor import chunkstore, owners, planning, templates
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.errors import Problem, RequestError
from mlaas_condor.grid import tokens, xrootd
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.request import Job
from mlaas_condor.run import GIVEN_SPECS, SHARED_STAGES, STAGES, RunFolder

_DELEGATED_SECONDS = 4 * 3600  # of a job's own proxy; HTCondor makes a new one in time


def store_folders(
    store: Path, dataset: Dataset, plan: planning.Plan, chunk_store: str | None = None
) -> dict[str, Path]:
    """Return where each stage whose output is shared keeps it, by the content it is made from."""
    specs, chunks = dataset.specs_key, dataset.chunks_key
    if chunk_store:
        chunks = chunkstore.stubs_key(chunk_store, dataset)
    # merge also cuts the chunks into tasks, so it depends on that part of the plan as well.
    wishes = plan.wishes.for_data.model_dump_json(exclude={"stored"})  # the key of the chunks says so
    cutting = f"{specs} {chunks} {plan.size.model_dump_json()} {wishes}"
    merge = hashlib.sha256(cutting.encode()).hexdigest()[:20]
    keys = {"specs": specs, "merge": merge, "preprocess": chunks}
    return {stage: store / stage / keys[stage] for stage in SHARED_STAGES}


def render(
    name: str,
    job: Job,
    dataset: Dataset,
    plan: planning.Plan,
    models: list[str],
    python: str,
    store: Path,
    credentials: Credentials,
    owner: str = "",
    accounting_group: str = "",
) -> dict[str, str]:
    """Return the text of every file that HTCondor gets, by file name.

    Parameters
    ----------
    name
        Name of the run.
    job, dataset, plan
        What is to be done.
    models
        Names of the model file and of the user's modules that it imports.
    python
        The Python of the jobs.
    store
        Folder of specs and chunks, by content.
    credentials
        What jobs read remote files with.
    owner
        Whose run it is, where a service submits for several people; the pool shares fairly among them.
    accounting_group
        Group of the pool's accounting that the jobs count for; empty for none.
    """
    folders = store_folders(store, dataset, plan, job.chunk_store)
    stores = {f"{stage}_store": _without_spaces(folder) for stage, folder in folders.items()}
    files = {
        "run.dag": templates.render("run.dag", name=name, **stores),
        "ready.sh": templates.text("ready.sh"),
    }
    stored = chunkstore.folder(job.chunk_store, dataset) if job.chunk_store else ""
    if stored:
        place = chunkstore.Place(url=stored, stubs=folders["preprocess"])
        files[chunkstore.FILE] = place.model_dump_json(indent=1) + "\n"
    common: dict[str, object] = {
        "name": name,
        "python": python,
        "owner": owner_lines(owner, accounting_group),
        "models": ", ".join(f"files/{each}" for each in models),
        "chunk_store": f" {stored}" if stored else "",
        **_files_of(dataset),
    }
    for stage in STAGES:
        values = common | _asked(stage, job, plan) | _shown(stage, job, credentials)
        files[f"{stage}.sub"] = templates.render(f"{stage}.sub", **values)
    return files


def owner_lines(owner: str, accounting_group: str) -> str:
    """Return the lines that say whose a job is, and for whom the pool counts it."""
    lines = [f"My.MLaaSOwner         = {owners.in_ads(owner)}"]
    if accounting_group:
        lines.append(f"accounting_group      = {accounting_group}")
    if owner:
        lines.append(f"accounting_group_user = {owners.short_name(owner)}")
    return "\n".join(lines)


def _files_of(dataset: Dataset) -> dict[str, object]:
    """Return what the submit files say of the files that travel with the jobs of a dataset."""
    function = [dataset.function.name, *dataset.function.modules] if dataset.function else []
    return {
        "inputs": "".join(f", inputs/{file.staged}" for file in dataset.files if file.staged),
        "function": "".join(f", files/{file}" for file in function),
        "given": f" {GIVEN_SPECS}" if dataset.given else "",
        "given_file": f", {GIVEN_SPECS}" if dataset.given else "",
    }


def _asked(stage: str, job: Job, plan: planning.Plan) -> dict[str, object]:
    """Return what a stage's submit file asks the machines for."""
    return {
        "cpus": plan.stage(stage).cpus,
        # What the user asks for is not changed by what merge measures.
        "memory": plan.wishes.memory or "$(memory)",
        "disk": plan.wishes.disk or "$(disk)",
        "gpus": _gpu_lines(job) if stage == "train" else "",
    }


def _shown(stage: str, job: Job, credentials: Credentials) -> dict[str, object]:
    """Return what a stage's submit file says of credentials, and of when a job is tried again."""
    if stage not in credentials.stages:
        return {"retries": templates.text("retries.sub"), "token": ""}
    token = f", {credentials.token}" if credentials.token else ""
    return {"retries": _credential_lines(job, credentials), "token": token}


def _without_spaces(path: Path) -> str:
    """DAGMan splits a SCRIPT line at spaces and knows no quotes; a path with a space cannot be passed."""
    text = str(path)
    if any(c.isspace() for c in text):
        what = f"{text!r} has a space, which DAGMan cannot pass on"
        raise RequestError([Problem("settings: home", what, "set MLAAS_CONDOR_HOME to another folder")])
    return text


def _credential_lines(job: Job, credentials: Credentials) -> str:
    """Return the lines of a stage that reads storage: who it is there, and when it is tried again."""
    lines = []
    if credentials.proxy:
        lines += [
            f"x509userproxy        = {credentials.proxy}",
            f"delegate_job_GSI_credentials_lifetime = {_DELEGATED_SECONDS}",
        ]
    if job.oauth_services:
        lines.append(f"use_oauth_services   = {', '.join(job.oauth_services)}")
    environment = {
        tokens.FILE: Path(credentials.token).name,
        tokens.SERVICE: job.oauth_services[0].replace("*", "_") if job.oauth_services else "",
        xrootd.AUTHORITIES: credentials.certificates,
    }
    given = " ".join(f"{name}={value}" for name, value in environment.items() if value)
    if given:
        lines.append(f'environment          = "{given}"')
    return templates.render("credentials.sub", identity="".join(f"{line}\n" for line in lines))


def _gpu_lines(job: Job) -> str:
    if not job.gpus_wanted:
        return ""
    lines = [f"request_gpus   = {job.gpus_wanted}"]
    if job.gpu_memory:
        lines.append(f"gpus_minimum_memory = {job.gpu_memory}")
    if job.gpu_capability:
        lines.append(f"gpus_minimum_capability = {job.gpu_capability}")
    return "\n".join(lines) + "\n"


def task_lists(dataset: Dataset, plan: planning.Plan) -> dict[str, list[str]]:
    """Return the task list of every stage, as far as prepare can know it."""
    files = [sorted({each.file for each in task}) for task in dataset.tasks]
    staged = [[dataset.files[i].staged for i in task if dataset.files[i].staged] for task in files]
    inputs = [",".join(f"inputs/{name}" for name in task) for task in staged]
    units = {
        "specs": len(dataset.tasks), "preprocess": plan.size.chunks, "train": plan.stage("train").jobs
    }  # fmt: skip
    return {
        stage: planning.task_rows(
            plan.stage(stage), units.get(stage, 1), inputs if stage == "specs" else None
        )
        for stage in STAGES
    }


def write(folder: RunFolder, files: dict[str, str], lists: dict[str, list[str]]) -> None:
    """Write DAG, submit files, PRE script and task lists into a run directory."""
    for name, content in files.items():
        (folder.path / name).write_text(content, "utf-8")
    folder.ready_script.chmod(0o755)
    folder.tasks("specs").parent.mkdir()
    for stage, rows in lists.items():
        folder.tasks(stage).write_text("\n".join(rows) + "\n", "utf-8")
    folder.logs.mkdir()
