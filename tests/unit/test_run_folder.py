"""Run directories: names are given once, a run is there as a whole or not, and what is shared stays."""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor import run
from mlaas_condor.errors import RunNotFound, WrongState
from mlaas_condor.run import RunFolder


def make_run(runs, name):
    """Publish a run directory with nothing but its DAG."""
    folder = run.staging(runs, name)
    (folder / "run.dag").touch()
    return run.publish(folder, runs, name)


def _reserve_many(runs, number, given_names):
    for _ in range(number):
        given_names.put(run.reserve(runs, "luca"))


def test_names_are_distinct_from_many_threads(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(lambda _: run.reserve(tmp_path, "luca"), range(200)))
    assert sorted(names) == sorted(f"luca_{i}" for i in range(1, 201))


def test_names_are_distinct_from_many_processes(tmp_path):
    context = multiprocessing.get_context("spawn")
    names = context.Queue()
    processes = [context.Process(target=_reserve_many, args=(tmp_path, 25, names)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [names.get(timeout=60) for _ in range(100)]
    for process in processes:
        process.join()
    assert sorted(found) == sorted(f"luca_{i}" for i in range(1, 101))


def test_deleted_name_is_not_given_again(tmp_path):
    runs = tmp_path / "runs"
    for number in (1, 2):
        assert make_run(runs, run.reserve(runs, "luca")).name == f"luca_{number}"
    run.delete(RunFolder(runs / "luca_2"), tmp_path / "store")
    assert run.reserve(runs, "luca") == "luca_3"


def test_run_is_not_overwritten_when_the_list_of_names_is_lost(tmp_path):
    make_run(tmp_path, "luca_1")
    assert run.reserve(tmp_path, "luca") == "luca_2"


@given(st.lists(st.sampled_from(["a", "a_1", "a_1_1", "a_b", "1_1", "A"]), max_size=8))
def test_names_with_underscores_count_on_their_own(tmp_path_factory, names):
    runs = tmp_path_factory.mktemp("runs")
    given_names = [run.reserve(runs, name) for name in names]
    assert len(set(given_names)) == len(names)
    for name in set(names):
        own = [got for asked, got in zip(names, given_names, strict=True) if asked == name]
        assert own == [f"{name}_{i}" for i in range(1, len(own) + 1)]


def test_unpublished_run_is_not_seen(tmp_path):
    folder = run.staging(tmp_path, "luca_1")
    (folder / "run.dag").touch()
    assert run.list_folders(tmp_path) == []
    with pytest.raises(RunNotFound):
        run.open_folder(tmp_path, "luca_1")
    with pytest.raises(RunNotFound):
        run.open_folder(tmp_path, folder.name)
    assert run.publish(folder, tmp_path, "luca_1").name == "luca_1"
    assert run.open_folder(tmp_path, "luca_1").path == tmp_path / "luca_1"
    assert not folder.exists()


def test_publishing_over_a_run_fails_and_leaves_it(tmp_path):
    make_run(tmp_path, "luca_1")
    with pytest.raises(OSError, match="luca_1"):
        make_run(tmp_path, "luca_1")
    assert run.open_folder(tmp_path, "luca_1").dag.exists()


def test_runs_are_listed_oldest_first(tmp_path):
    assert run.list_folders(tmp_path / "none") == []
    now = time.time()
    for name, age in (("b_1", 30), ("a_10", 20), ("a_9", 20), ("a_1", 10)):
        os.utime(make_run(tmp_path, name).dag, (now - age, now - age))
    (tmp_path / "no_run").mkdir()
    (tmp_path / "file").touch()
    assert [each.name for each in run.list_folders(tmp_path)] == ["b_1", "a_9", "a_10", "a_1"]


def test_run_that_is_not_there_is_told_the_nearest(tmp_path):
    make_run(tmp_path, "luca_1")
    with pytest.raises(RunNotFound, match=r"no run 'luka_1' in .*: did you mean 'luca_1'\?") as caught:
        run.open_folder(tmp_path, "luka_1")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a" * 300, "nul\0", ".names"])
def test_name_that_is_none_is_not_found(tmp_path, name):
    make_run(tmp_path / "runs", "luca_1")
    (tmp_path / "run.dag").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "x/run.dag").touch()
    with pytest.raises(RunNotFound):
        run.open_folder(tmp_path / "runs", name)


def test_file_names_are_under_the_run_directory(tmp_path):
    folder = RunFolder(tmp_path / "luca_1")
    names = [
        getattr(folder, name)
        for name, each in vars(RunFolder).items()
        if isinstance(each, property) and name != "name"
    ]
    for stage in run.STAGES:
        names += [folder.submit_file(stage), folder.tasks(stage), folder.todo(stage), folder.output(stage)]
        names += [folder.stdout(stage, 3), folder.stderr(stage, 3)]
    assert len(set(names)) == len(names)
    assert all(folder.path in path.parents for path in names)


def test_tasks_are_done_when_all_their_units_are(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.task_units("preprocess") == {} and folder.tasks_done("preprocess") == set()
    (tmp_path / "tasks").mkdir()
    folder.tasks("preprocess").write_text("0 0 1 512 100\n1 2 2 512 100 inputs/a,inputs/b\n")
    assert folder.task_units("preprocess") == {0: range(2), 1: range(2, 3)}
    folder.output("preprocess").mkdir()
    for name, text in {
        "00000.ok": "3 chunk-00000.zip\n", "chunk-00000.zip": "abc",
        "00002.ok": "2 chunk-00002.zip\n", "chunk-00002.zip": "ab",
        "00001.ok": "4 chunk-00001.zip\n", "chunk-00001.zip": "cut",
        "00003.ok": "1 gone.zip\n", "00004.ok": "", "00005.ok": "garbage\n", "notes.ok": "",
    }.items():  # fmt: skip
        (folder.output("preprocess") / name).write_text(text)
    assert folder.units_done("preprocess") == {0, 2}
    assert folder.tasks_done("preprocess") == {1}


def test_merges_lists_hold_once_all_of_merges_output_is_there(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "tasks").mkdir()
    folder.tasks("preprocess").write_text("0 0 1 512 100\n")
    folder.output("merge").mkdir()
    (folder.output("merge") / "preprocess.tasks").write_text("0 0 0 512 100\n1")  # still arriving
    assert folder.task_units("preprocess") == {0: range(2)}
    (folder.output("merge") / "preprocess.tasks").write_text("0 0 0 512 100\n")
    (folder.output("merge") / "00000.ok").write_text("14 preprocess.tasks\n")
    assert folder.task_units("preprocess") == {0: range(1)}


def fill_store(store, folder, *keys):
    """Put a unit under each key into the store, and link it into a run."""
    for key in keys:
        stored = store / "specs" / key
        stored.mkdir(parents=True, exist_ok=True)
        folder.output("specs").mkdir(exist_ok=True)
        for name in (f"{key}.json", f"{key}.ok"):
            if not (stored / name).exists():
                (stored / name).write_text("x")
            os.link(stored / name, folder.output("specs") / name)


def test_deleting_a_run_keeps_what_another_one_uses(tmp_path):
    runs, store = tmp_path / "runs", tmp_path / "store"
    one, two = make_run(runs, "a_1"), make_run(runs, "a_2")
    fill_store(store, one, "own", "shared")
    fill_store(store, two, "shared")
    run.delete(one, store)
    assert not one.path.exists() and two.path.exists()
    assert [each.name for each in (store / "specs").iterdir()] == ["shared"]
    assert len(list((store / "specs/shared").iterdir())) == 2
    run.delete(two, store)
    assert list((store / "specs").iterdir()) == []
    assert list(runs.iterdir()) == []


def test_store_folder_is_dropped_whole_or_not_at_all(tmp_path):
    runs, store = tmp_path / "runs", tmp_path / "store"
    one, two = make_run(runs, "a_1"), make_run(runs, "a_2")
    fill_store(store, two, "key")
    (store / "specs/key/more.json").write_text("nobody links this")
    run.delete(one, store)
    assert len(list((store / "specs/key").iterdir())) == 3


def test_deleting_twice_says_why_not(tmp_path):
    folder = make_run(tmp_path, "a_1")
    run.delete(folder, tmp_path / "store")
    with pytest.raises(WrongState, match="cannot be deleted"):
        run.delete(folder, tmp_path / "store")
