"""What HTCondor gets, compared with golden files to be read as they are.

After a change that is meant, write them anew and read the difference:

    python -m pytest tests/unit/test_dag.py --update-golden
"""

from pathlib import Path

import pytest

from mlaas_condor import planning
from mlaas_condor.batch import dag
from mlaas_condor.data.dataset import Dataset, InputFile, split_entries
from mlaas_condor.errors import RequestError
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.request import Request
from mlaas_condor.run import STAGES, RunFolder

GOLDEN = Path(__file__).parent / "golden"
CPU = {"name": "tth", "files": "files.txt", "labels": "labels.txt", "model": "model.py"}
CARDS = {"gpus": 2, "gpu_memory": "16gb", "gpu_capability": 8.0}
GPU = {**CPU, **CARDS, "cpus": 4, "memory": "12gb", "disk": "20gb"}
FILES = ["run.dag", *(f"{stage}.sub" for stage in STAGES)]


def small(job):
    """Return a small dataset of two files, and its plan for a job."""
    read = Request.of(job).job
    wishes = planning.Wishes(memory=read.memory, disk=read.disk, cpus=read.cpus, gpus=read.gpus_wanted)
    size = planning.Size(
        files=2, bytes=2**21, transferred=2**21, events=300, flat=2, jagged=1, columns=5, values=5,
        chunk_size=100,
    )  # fmt: skip
    plan = planning.make(size, wishes)
    files = [
        InputFile(
            path=f"/data/{name}",
            tree="events",
            staged=f"{i:04d}_{name}",
            uuid=f"uuid-{i}",
            size=2**20,
            entries=n,
            used=n,
        )
        for i, (name, n) in enumerate((("ttH.root", 100), ("QCD.root", 200)))
    ]
    dataset = Dataset(
        files=files, flat=["met", "njets"], jagged=["jet_pt"],
        tasks=split_entries([100, 200], plan.stage("specs").jobs), chunk_size=100, shuffle=True, seed=21,
    )  # fmt: skip
    return dataset, plan


def render(job=CPU, store=Path("/home/luca/store"), credentials=None, **update):
    dataset, plan = small(job)
    dataset = dataset.model_copy(update=update)
    return dag.render("tth_1", Request.of(job).job, dataset, plan, ["model.py"], "/opt/python", store,
                      credentials or Credentials())  # fmt: skip


REMOTE = Credentials(
    proxy="/tmp/x509up_u1000", identity="/DC=org/CN=Luca", token="/run/user/1000/bt_u1000",
    stages=["specs", "preprocess"], certificates="/opt/certificates",
)  # fmt: skip
SPECIAL = {
    "train_gpu.sub": lambda: render(GPU)["train.sub"],
    "specs_remote.sub": lambda: render(credentials=REMOTE)["specs.sub"],
}


@pytest.mark.parametrize("name", [*FILES, *SPECIAL])
def test_generated_file_is_the_golden_one(name, pytestconfig):
    text = SPECIAL[name]() if name in SPECIAL else render()[name]
    golden = GOLDEN / name
    if pytestconfig.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_only_jobs_that_read_storage_get_a_credential():
    files = render(credentials=REMOTE)
    words = ("x509", "bt_u1000", "BEARER")
    told = {
        name for name, text in files.items() if name != "ready.sh" and any(each in text for each in words)
    }
    assert told == {"specs.sub", "preprocess.sub"}
    assert not any("on_exit_hold" in text for text in render().values())


def test_tokens_that_the_pool_keeps_are_asked_for():
    job = {**CPU, "oauth_services": ["wlcg", "scitokens"]}
    text = render(job, credentials=Credentials(stages=["specs"]))["specs.sub"]
    assert "use_oauth_services   = wlcg, scitokens\n" in text and "on_exit_hold" in text


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_left_to_fill_in_and_every_line_is_told_apart(name):
    text = render(GPU)[name]
    assert "@{" not in text and "None" not in text
    if name.endswith(".sub"):
        keys = [
            line.partition("=")[0].strip() for line in text.splitlines() if " = " in line and line[0] != "#"
        ]
        assert len(keys) == len(set(keys))


def test_gpus_are_asked_for_by_the_training_only():
    files = render(GPU)
    assert "request_gpus   = 2\n" in files["train.sub"]
    assert "gpus_minimum_memory = 16384\n" in files["train.sub"]
    assert "gpus_minimum_capability = 8.0\n" in files["train.sub"]
    assert all("gpu" not in files[f"{stage}.sub"] for stage in STAGES if stage != "train")
    assert "gpu" not in render()["train.sub"]


def test_device_alone_asks_for_one_gpu_of_any_kind():
    text = render({**CPU, "device": "gpu"})["train.sub"]
    assert "request_gpus   = 1\n" in text and "gpus_minimum" not in text


def test_rate_of_files_is_declared_so_that_a_failing_job_brings_its_messages():
    for stage in STAGES:
        text = render()[f"{stage}.sub"]
        if stage == "train":  # its checkpoints come back as well, and when it is evicted
            assert "= ON_EXIT_OR_EVICT\n" in text and "= output/train, checkpoint.$(task)\n" in text
        else:
            assert "= ON_EXIT\n" in text and f"transfer_output_files   = output/{stage}\n" in text
        assert "should_transfer_files   = YES\n" in text and 'My.MLaaSRun           = "tth_1"' in text


def test_preprocess_takes_all_input_files_and_specs_those_of_the_task():
    files, lists = render(), dag.task_lists(*small(CPU))
    line = next(each for each in files["preprocess.sub"].splitlines() if each.startswith("transfer_input"))
    assert line.endswith("dataset.json, merge/specs.json, inputs/0000_ttH.root, inputs/0001_QCD.root")
    assert [row.split()[5] for row in lists["specs"]] == [
        "inputs/0000_ttH.root,inputs/0001_QCD.root", "inputs/0001_QCD.root",
    ]  # fmt: skip


def test_task_lists_cover_every_unit_of_every_stage():
    dataset, plan = small(CPU)
    lists = dag.task_lists(dataset, plan)
    assert list(lists) == list(STAGES)
    for stage, units in (("specs", 2), ("merge", 1), ("preprocess", 3), ("train", 1), ("report", 1)):
        rows = [row.split() for row in lists[stage]]
        assert [u for row in rows for u in range(int(row[1]), int(row[2]) + 1)] == list(range(units))
        assert all(int(row[3]) == plan.stage(stage).memory for row in rows)
        assert len(rows) == plan.stage(stage).jobs


def test_store_with_a_space_is_refused_before_dagman_trips_over_it():
    with pytest.raises(RequestError, match=r"has a space.*MLAAS_CONDOR_HOME"):
        render(store=Path("/home/lu ca/store"))


def test_store_folders_follow_the_content():
    dataset, plan = small(CPU)
    store = Path("/s")
    folders = dag.store_folders(store, dataset, plan)
    assert folders["specs"] == store / "specs" / dataset.specs_key
    assert folders["preprocess"] == store / "preprocess" / dataset.chunks_key
    assert set(folders) == {"specs", "merge", "preprocess"}
    other = dag.store_folders(store, dataset.model_copy(update={"seed": 1}), plan)
    assert other["specs"] == folders["specs"]
    assert other["merge"] != folders["merge"] and other["preprocess"] != folders["preprocess"]
    cut = dag.store_folders(store, dataset, planning.make(plan.size, planning.Wishes(preprocess_jobs=1)))
    assert cut["merge"] != folders["merge"] and cut["preprocess"] == folders["preprocess"]


def test_another_training_reuses_all_that_was_made_of_the_data():
    dataset, plan = small(CPU)
    other = planning.make(plan.size, planning.Wishes(memory=9999, disk=9999, cpus=8, gpus=1, epochs=99))
    store = Path("/s")
    assert dag.store_folders(store, dataset, other) == dag.store_folders(store, dataset, plan)


def test_written_run_directory_has_all_that_dagman_needs(tmp_path):
    folder = RunFolder(tmp_path / "tth_1")
    folder.path.mkdir()
    lists = dag.task_lists(*small(CPU))
    dag.write(folder, render(), lists)
    assert folder.ready_script.stat().st_mode & 0o111
    assert folder.dag.read_text() == render()["run.dag"]
    assert folder.logs.is_dir()
    for stage in STAGES:
        assert folder.submit_file(stage).exists()
        assert folder.tasks(stage).read_text().splitlines() == lists[stage]
        assert f"{stage}.sub" in folder.dag.read_text()
