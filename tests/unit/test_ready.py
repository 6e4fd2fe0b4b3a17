"""The PRE script, run as DAGMan runs it: what is missing, what the store has, what goes there."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mlaas_condor import templates

NOTHING, WORK = 7, 0


@pytest.fixture
def folder(tmp_path):
    """A run directory with the script and an empty folder of task lists."""
    path = tmp_path / "runs" / "a_1"
    (path / "tasks").mkdir(parents=True)
    (path / "ready.sh").write_text(templates.text("ready.sh"))
    return path


@pytest.fixture
def ready(folder, tmp_path):
    """Run the script from elsewhere; give its exit code and the tasks that are left."""

    def run(stage, *arguments, path=None):
        command = ["/bin/sh", folder / "ready.sh", stage, *map(str, arguments)]
        environment = {**os.environ, **({"PATH": path} if path else {})}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == "" and done.stderr == ""
        assert not [each for each in (folder / "tasks").iterdir() if each.name.startswith(".")]
        todo = folder / "tasks" / f"{stage}.todo"
        return done.returncode, todo.read_text().splitlines()

    return run


def tasks(folder, stage, *rows):
    (folder / "tasks" / f"{stage}.tasks").write_text("".join(f"{row}\n" for row in rows))


def unit(folder, number, size=5, **files):
    """Write a complete unit of output: its file and its mark."""
    folder.mkdir(parents=True, exist_ok=True)
    files = files or {f"chunk-{number:05d}.zip": b"x" * size}
    lines = []
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        lines.append(f"{len(content)} {name}\n")
    (folder / f"{number:05d}.ok").write_text("".join(lines))


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


ROWS = ("0 0 1 512 100 inputs/a,inputs/b", "1 2 2 512 100 inputs/c", "2 3 5 512 100 inputs/d")


def test_at_first_all_is_missing_and_rows_stay_as_they_are(folder, ready):
    tasks(folder, "specs", *ROWS)
    assert ready("specs", folder / "none") == (WORK, list(ROWS))


def test_tasks_with_all_their_units_are_left_out(folder, ready):
    tasks(folder, "specs", *ROWS)
    for number in (0, 2, 3, 4, 5):
        unit(folder / "specs", number)
    assert ready("specs", "-") == (WORK, [ROWS[0]])
    unit(folder / "specs", 1)
    assert ready("specs", "-") == (NOTHING, [])


@pytest.mark.parametrize("harm", ["truncate", "extend", "delete", "no mark", "empty mark", "one of two"])
def test_unit_that_is_not_whole_counts_as_missing(folder, ready, harm):
    tasks(folder, "train", "0 0 0 512 100")
    unit(folder / "train", 0, **{"model/a b.keras": b"123", "metrics.json": b"{}"})
    assert ready("train", "-")[0] == NOTHING
    file, mark = folder / "train/model/a b.keras", folder / "train/00000.ok"
    if harm == "truncate":
        file.write_bytes(b"12")
    elif harm == "extend":
        file.write_bytes(b"1234")
    elif harm == "delete":
        file.unlink()
    elif harm == "no mark":
        mark.unlink()
    elif harm == "empty mark":
        mark.write_text("")
    else:
        (folder / "train/metrics.json").unlink()
    assert ready("train", "-") == (WORK, ["0 0 0 512 100"])


def test_mark_may_list_an_empty_file(folder, ready):
    tasks(folder, "specs", "0 0 0 1 1")
    unit(folder / "specs", 0, a=b"", b=b"1")
    assert ready("specs", "-")[0] == NOTHING


def test_output_of_another_run_is_taken_from_the_store_by_hard_link(folder, ready, tmp_path):
    store = tmp_path / "store" / "key"
    tasks(folder, "preprocess", "0 0 0 1 1", "1 1 1 1 1")
    unit(store, 0)
    assert ready("preprocess", store) == (WORK, ["1 1 1 1 1"])
    assert names(folder / "preprocess") == ["00000.ok", "chunk-00000.zip"]
    for name in names(folder / "preprocess"):
        assert (folder / "preprocess" / name).samefile(store / name)


def test_unit_that_the_store_has_in_part_is_not_taken(folder, ready, tmp_path):
    store = tmp_path / "store" / "key"
    tasks(folder, "preprocess", "0 0 0 1 1")
    unit(store, 0)
    (store / "chunk-00000.zip").write_bytes(b"xx")
    assert ready("preprocess", store) == (WORK, ["0 0 0 1 1"])
    assert names(folder / "preprocess") == []


def test_truncated_unit_is_replaced_from_the_store(folder, ready, tmp_path):
    store = tmp_path / "store" / "key"
    tasks(folder, "preprocess", "0 0 0 1 1")
    unit(store, 0)
    unit(folder / "preprocess", 0)
    (folder / "preprocess/chunk-00000.zip").write_bytes(b"x")
    assert ready("preprocess", store) == (NOTHING, [])
    assert (folder / "preprocess/chunk-00000.zip").read_bytes() == b"x" * 5


def test_output_of_the_previous_stage_goes_into_the_store(folder, ready, tmp_path):
    store = tmp_path / "store" / "key"
    tasks(folder, "merge", "0 0 0 1 1")
    unit(folder / "specs", 0)
    unit(folder / "specs", 1)
    (folder / "specs/chunk-00001.zip").write_bytes(b"")
    assert ready("merge", "-", "specs", store) == (WORK, ["0 0 0 1 1"])
    assert names(store) == ["00000.ok", "chunk-00000.zip"]  # and not what is cut short
    assert (store / "00000.ok").samefile(folder / "specs/00000.ok")


def test_what_the_store_has_whole_is_not_replaced(folder, ready, tmp_path):
    store = tmp_path / "store" / "key"
    tasks(folder, "merge", "0 0 0 1 1")
    for place in (store, folder / "specs"):
        unit(place, 0)
    before = (store / "00000.ok").stat().st_ino
    ready("merge", "-", "specs", store)
    assert (store / "00000.ok").stat().st_ino == before


def test_a_stage_without_a_store_takes_and_gives_nothing(folder, ready, tmp_path):
    tasks(folder, "train", "0 0 0 1 1")
    unit(folder / "preprocess", 0)
    assert ready("train", "-", "preprocess", "-")[0] == WORK
    assert names(tmp_path) == ["runs"] and not (folder / "-").exists()


def test_a_store_that_cannot_be_written_or_read_is_no_failure(folder, ready, tmp_path):
    (tmp_path / "store").write_text("a file where a folder should be")
    tasks(folder, "merge", "0 0 0 1 1")
    unit(folder / "specs", 0)
    assert ready_quietly(folder, "merge", tmp_path / "store/m", "specs", tmp_path / "store/s") == WORK
    assert (folder / "tasks/merge.todo").read_text() == "0 0 0 1 1\n"


def ready_quietly(folder, *arguments, path=None):
    """Run the script where it may complain."""
    environment = {**os.environ, **({"PATH": path} if path else {})}
    command = ["/bin/sh", folder / "ready.sh", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def test_where_no_link_can_be_made_files_are_copied(folder, ready, tmp_path):
    store, programs = tmp_path / "store" / "key", tmp_path / "bin"
    programs.mkdir()
    (programs / "ln").write_text("#!/bin/sh\nexit 1\n")
    (programs / "ln").chmod(0o755)
    tasks(folder, "preprocess", "0 0 2 1 1")
    for number in range(3):
        unit(store, number, size=number)
    assert ready("preprocess", store, path=f"{programs}:{os.environ['PATH']}") == (NOTHING, [])
    assert names(folder / "preprocess") == names(store)
    assert not (folder / "preprocess/00000.ok").samefile(store / "00000.ok")


def test_exact_list_of_merge_holds_once_it_is_there(folder, ready):
    tasks(folder, "preprocess", "0 0 9 1 1")
    unit(folder / "merge", 0, **{"preprocess.tasks": b"0 0 0 1 1\n1 1 1 1 1\n"})
    unit(folder / "preprocess", 0)
    assert ready("preprocess", "-") == (WORK, ["1 1 1 1 1"])


def test_missing_list_of_tasks_is_a_failure(folder):
    assert ready_quietly(folder, "specs", "-") not in (WORK, NOTHING)


def test_odd_characters_in_the_path_of_the_store(folder, ready, tmp_path):
    store = tmp_path / "st&re|\\'$x*" / "key"
    tasks(folder, "train", "0 0 0 1 1")
    unit(folder / "preprocess", 0)
    ready("train", "-", "preprocess", store)
    assert names(store) == ["00000.ok", "chunk-00000.zip"]


def test_names_that_would_be_read_as_several_are_no_way_out(folder, ready, tmp_path):
    """Code of the user's wrote them, in a job; the script runs where everybody's files are."""
    victim, store = tmp_path / "victim", tmp_path / "store" / "key"
    victim.write_text("somebody's")
    tasks(folder, "merge", "0 0 0 1 1")
    path = f'x" "{victim}'
    for stage in ("specs", "merge"):
        unit(folder / stage, 0, **{path: b"1"})
        unit(folder / stage, 1)
        (folder / stage / "a\nb").write_text("")
    assert ready("merge", store, "specs", store) == (WORK, ["0 0 0 1 1"])
    assert victim.read_text() == "somebody's" and victim.stat().st_nlink == 1
    for place in (folder / "specs", folder / "merge", store):
        assert not any('"' in str(each) or "\n" in str(each) for each in place.rglob("*"))
    assert names(store) == ["00001.ok", "chunk-00001.zip"]


def test_units_beyond_99999(folder, ready, tmp_path):
    store = tmp_path / "store" / "key"
    tasks(folder, "preprocess", "0 99999 100001 1 1")
    for number in (99_999, 100_000, 100_001):
        unit(store, number)
    assert ready("preprocess", store) == (NOTHING, [])


def test_ten_thousand_chunks_take_seconds(folder, ready, tmp_path):
    number = 10_000
    for place in (tmp_path / "store/one", folder / "merge"):
        place.mkdir(parents=True)
    for i in range(number):
        (tmp_path / f"store/one/chunk-{i:05d}.zip").write_bytes(b"12345")
        (tmp_path / f"store/one/{i:05d}.ok").write_text(f"5 chunk-{i:05d}.zip\n")
    tasks(folder, "preprocess", *(f"{i} {10 * i} {10 * i + 9} 1 1" for i in range(number // 10 + 1)))
    tasks(folder, "train", "0 0 0 1 1")
    started = time.monotonic()
    assert ready("preprocess", tmp_path / "store/one") == (WORK, ["1000 10000 10009 1 1"])
    assert ready("train", "-", "preprocess", tmp_path / "store/two")[0] == WORK
    assert time.monotonic() - started < 15
    assert len(names(tmp_path / "store/two")) == 2 * number


def test_script_is_plain_posix():
    text = templates.text("ready.sh")
    assert text.startswith("#!/bin/sh\n")
    for bashism in (r"\[\[", r"\blocal\b", r"<\(", r"\$\{\w+//", r"\bfunction \w", r"==", r"\becho -[en]"):
        found = [line for line in text.splitlines() if re.search(bashism, line) and "FILENAME" not in line]
        assert not found


@pytest.mark.skipif(not shutil.which("dash"), reason="no dash here")
def test_dash_finds_no_mistake():
    path = Path(str(templates.resources.files("mlaas_condor.submit_templates") / "ready.sh"))
    assert subprocess.run(["dash", "-n", path], check=False).returncode == 0


def test_what_is_not_whole_goes_first_so_that_nothing_is_written_through_a_link(folder, ready, tmp_path):
    tasks(folder, "preprocess", "0 0 2 512 100")
    store = tmp_path / "store/one"
    unit(store, 0)
    unit(store, 1)
    stage = folder / "preprocess"
    stage.mkdir()
    # As if the linking of unit 1 had been interrupted before its mark.
    (stage / "chunk-00001.zip").hardlink_to(store / "chunk-00001.zip")
    (stage / "a file.tmp").write_text("left over")
    (store / "00001.ok").write_text("99 chunk-00001.zip\n")
    assert ready("preprocess", store)[0] == WORK
    assert names(stage) == ["00000.ok", "chunk-00000.zip"]
    assert names(store) == ["00000.ok", "00001.ok", "chunk-00000.zip", "chunk-00001.zip"]
