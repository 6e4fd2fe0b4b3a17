"""The plan: more data never asks for less, wishes win, and the jobs share out all the work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor import planning
from mlaas_condor.planning import Plan, Size, StagePlan, Wishes, make, task_rows

GROWING = ("files", "bytes", "events", "flat", "jagged", "columns", "values")


@st.composite
def sizes(draw):
    total = draw(st.integers(0, 2**42))
    return Size(
        files=draw(st.integers(1, 3000)),
        bytes=total,
        transferred=draw(st.integers(0, total)),
        events=draw(st.integers(1, 10**9)),
        flat=draw(st.integers(0, 2000)),
        jagged=draw(st.integers(0, 500)),
        columns=draw(st.integers(1, 10_000)),
        values=draw(st.integers(1, 10_000)),
        chunk_size=draw(st.sampled_from([-1, 1, 1000, 10_000, 10**6])),
    )


@given(sizes(), st.sampled_from(GROWING), st.integers(1, 10**8))
def test_more_of_anything_never_asks_for_less(size, key, more):
    little = make(size, Wishes())
    much = make(size.model_copy(update={key: getattr(size, key) + more}), Wishes())
    for before, after in zip(little.stages, much.stages, strict=True):
        assert after.jobs >= before.jobs
        assert after.memory >= before.memory
        if before.jobs == after.jobs:
            assert after.disk >= before.disk
            assert after.seconds >= before.seconds


@given(sizes())
def test_stages_have_what_they_need(size):
    plan = make(size, Wishes(least_memory=600))
    assert [stage.stage for stage in plan.stages] == ["specs", "merge", "preprocess", "train", "report"]
    for stage in plan.stages:
        assert stage.jobs >= 1 and stage.cpus == 1 and stage.gpus == 0
        assert stage.memory >= 600 and stage.disk > 0 and stage.seconds > 0
    assert plan.stage("specs").jobs <= size.events
    assert plan.stage("preprocess").jobs <= size.chunks


@given(sizes(), st.integers(1, 10**4), st.integers(1, 10**4))
def test_no_job_is_longer_than_wished_where_it_can_be_split(size, seconds, _):
    plan = make(size, Wishes(job_seconds=seconds))
    assert plan.stage("specs").jobs == size.events or (
        plan.stage("specs").seconds <= seconds + planning.START_SECONDS
    )


@given(sizes(), st.integers(1, 500), st.integers(1, 500))
def test_wishes_win(size, specs, preprocess):
    wishes = Wishes(
        specs_jobs=specs,
        preprocess_jobs=preprocess,
        memory=700,
        disk=900,
        cpus=5,
        gpus=2,
        least_memory=10_000,
    )
    plan = make(size, wishes)
    assert plan.stage("specs").jobs == min(specs, size.events)
    assert plan.stage("preprocess").jobs == min(preprocess, size.chunks)
    train = plan.stage("train")
    assert (train.memory, train.disk, train.cpus, train.gpus) == (700, 900, 5, 2)
    assert plan.stage("report").memory >= 10_000 and plan.stage("report").gpus == 0


def test_more_epochs_take_longer():
    size = Size(
        files=1, bytes=1, transferred=1, events=10**6, flat=10, jagged=0, columns=10, values=10,
        chunk_size=1000,
    )  # fmt: skip
    few, many = (make(size, Wishes(epochs=epochs)).stage("train").seconds for epochs in (1, 10))
    assert few < many


@given(st.integers(1, 300), st.integers(1, 5000))
def test_task_rows_cover_every_unit_once(jobs, units):
    jobs = min(jobs, units)
    stage = StagePlan(stage="specs", jobs=jobs, cpus=1, gpus=0, memory=512, disk=100, seconds=1)
    rows = [row.split() for row in task_rows(stage, units)]
    assert [int(row[0]) for row in rows] == list(range(jobs))
    covered = [unit for row in rows for unit in range(int(row[1]), int(row[2]) + 1)]
    assert covered == list(range(units))
    lengths = [int(row[2]) - int(row[1]) + 1 for row in rows]
    assert max(lengths) - min(lengths) <= 1 and all(row[3:] == ["512", "100"] for row in rows)


def test_task_rows_name_the_inputs_of_each_task():
    stage = StagePlan(stage="specs", jobs=2, cpus=1, gpus=0, memory=1, disk=2, seconds=1)
    assert task_rows(stage, 2, ["inputs/a", "inputs/a,inputs/b"]) == [
        "0 0 0 1 2 inputs/a", "1 1 1 1 2 inputs/a,inputs/b",
    ]  # fmt: skip


def test_plan_read_back_is_the_same(tmp_path):
    size = Size(
        files=1, bytes=1, transferred=1, events=9, flat=1, jagged=0, columns=1, values=1, chunk_size=-1
    )
    plan = make(size, Wishes())
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    with pytest.raises(StopIteration):
        plan.stage("nothing")
