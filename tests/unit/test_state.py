"""Where a training is: what the train stage writes into its log is what status reads back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.state import RunState, StageState, Training

numbers = st.floats(0, 1e6).map(lambda value: round(value, 4))
trainings = st.builds(
    Training,
    epoch=st.integers(1, 10**6),
    epochs=st.integers(1, 10**6),
    loss=numbers,
    val_loss=numbers,
    value=st.none() | st.floats(0, 1).map(lambda value: round(value, 4)),
    rate=st.integers(0, 10**8).map(float),
    left=st.integers(0, 10**6).map(float),
    metric=st.sampled_from(["AUC", "RMSE"]),
    percent=st.none() | st.integers(0, 100),
)


@given(trainings, trainings)
def test_the_last_training_of_a_log_is_read_back(first, last):
    log = f"loading\n2026-01-01 00:00:00,1 {first}\nnoise epoch 3/4 loss\n2026-01-01 chunk 2  {last}\nend\n"
    assert Training.last_of(log) == last


def test_a_diverged_training_is_read_back_too():
    text = str(Training(1, 2, float("nan"), float("inf"), None, 10.0, 3.0))
    found = Training.last_of(text)
    assert found.loss != found.loss and found.val_loss == float("inf") and found.value is None


def test_a_log_without_a_pass_has_none():
    assert Training.last_of("epoch one is about to begin") is None


def test_a_stage_in_a_word():
    stage = StageState("specs", tasks=4)
    assert stage.word == "waiting"
    assert replace(stage, idle=4).word == "idle"
    assert replace(stage, idle=1, running=3).word == "running"
    assert replace(stage, running=1, held=1).word == "held"
    assert replace(stage, running=1, failed=1).word == "failed"
    assert replace(stage, done=4).word == "done"
    assert replace(stage, done=4, reused=True).word == "reused"


def test_elapsed_ends_with_the_run():
    state = RunState("a_1", "completed", "pool", (), submitted=100.0, ended=142.5)
    assert state.elapsed == 42.5
    assert replace(state, submitted=None).elapsed is None
    assert replace(state, ended=None).elapsed > 10**6
