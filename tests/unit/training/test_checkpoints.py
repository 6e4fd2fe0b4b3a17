"""A training that is interrupted ends as one that is not, wherever and however often it is interrupted."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.errors import ModelFault
from mlaas_condor.params import CheckpointEvery, EarlyStop, Plateau
from mlaas_condor.training import checkpoints as checkpoints_module
from mlaas_condor.training.checkpoints import Checkpoints, Leave
from mlaas_condor.training.loop import Trainer
from mlaas_condor.training.recipe import Recipe
from mlaas_condor.training.samples import Sample
from mlaas_condor.training.splitting import split

CHUNKS = 6


class Logistic:
    """A logistic regression by gradient steps, with a momentum and noise: each part of its state counts."""

    own_loop = False

    def __init__(self, learning="passes", stages=7):
        self.learning = learning
        self.state = np.zeros((2, 3))  # weights, momentum
        self.rate = 0.5
        self.stages, self.done = stages, 0
        self.events = 0

    def _step(self, x, y, weights, seed):
        pull = (y - self.predict(x)) * (1 if weights is None else weights)
        noise = np.random.default_rng(seed).normal(size=3) * 0.05
        self.state[1] = 0.5 * self.state[1] + (x.T @ pull) / len(x) + noise
        self.state[0] = self.state[0] + self.rate * self.state[1]
        self.events += len(x)

    def fit(self, x, y, batch_size, shuffle_seed=None, weights=None, validation=None):
        self._step(x, y, weights, shuffle_seed)
        return self.evaluate(x, y, weights)

    def fit_whole(self, portions, events):
        x, y, weights = (np.concatenate(each) if each[0] is not None else None
                         for each in zip(*portions(), strict=True))  # fmt: skip
        assert len(x) == events
        while self.done < self.stages:
            self._step(x, y, weights, self.done)
            self.done += 1
            yield {"stage": float(self.done), "stages": float(self.stages), **self.evaluate(x, y, weights)}

    def evaluate(self, x, y, weights=None):
        score = np.clip(self.predict(x), 1e-6, 1 - 1e-6)
        losses = -np.log(np.where(y == 1, score, 1 - score))
        return {"loss": float(np.mean(losses * (1 if weights is None else weights)))}

    def predict(self, x):
        return 1 / (1 + np.exp(-(x @ self.state[0])))

    def learning_rate(self):
        return self.rate if self.learning == "passes" else None

    def set_learning_rate(self, rate):
        self.rate = rate

    def checkpoint(self, path):
        with path.open("wb") as file:
            np.savez(file, state=self.state, rest=np.array([self.rate, self.done]))

    def restore(self, path):
        with np.load(path) as file:
            self.state = file["state"]
            self.rate, self.done = float(file["rest"][0]), int(file["rest"][1])


class Made:
    """Chunks from memory."""

    def __init__(self, recipe):
        self.samples = []
        for index in range(CHUNKS):
            rng = np.random.default_rng(index)
            x = rng.normal(size=(60, 3)).astype(np.float32)
            y = (x[:, 0] + rng.normal(size=60) > 0).astype(np.int64)
            rows = split(y, np.zeros(60, np.uint32), recipe)
            weights = rng.random(60) if recipe.weighted else None
            self.samples.append(Sample(index, x, y, rows, np.zeros(60, np.uint32), np.arange(60), weights))

    def __iter__(self):
        return iter(self.samples)

    def __len__(self):
        return CHUNKS

    def inorder(self, order):
        return (self.samples[index] for index in order)


def make_recipe(**changes):
    values = {
        "name": "r", "model": "model.py", "labels": [0, 1], "classes": ["0", "1"], "epochs": 4,
        "batch_size": 10, "standard": True, "split": 0.25, "padding": None, "threshold": 0.5, "seed": 5,
        "verbose": 0, "threads": 1,
    }  # fmt: skip
    return Recipe(**(values | changes))


def history_of(trainer):
    timeless = [{key: value for key, value in each.items() if key != "seconds"} for each in trainer.history]
    return json.dumps(timeless)


def run(recipe, learning, folder, interruptions=()):
    """Train; before each process ends its share of portions, or of stages, ask it to leave."""
    left = list(interruptions)
    processes = 0
    while True:
        model = Logistic(learning)
        checkpoints = Checkpoints(folder, "key", recipe.checkpoint)
        trainer = Trainer(model, Made(recipe), recipe, checkpoints)
        consider, seen = checkpoints.consider, 0
        stop_after = left.pop(0) if left else None

        def counted(*arguments, ask=checkpoints.ask, consider=consider, stop_after=stop_after):
            nonlocal seen
            seen += 1
            if seen == stop_after:
                ask()
            consider(*arguments)

        checkpoints.consider = counted
        processes += 1
        try:
            for _ in trainer.run():
                pass
        except Leave:
            continue
        return model, trainer, processes


KINDS = {
    "standard": {},
    "in turn": {"standard": False, "epochs": 3},
    "in turn, stopping early": {"standard": False, "epochs": 9, "early_stop": EarlyStop(patience=2)},
    "weights": {"weight_branch": "w", "weight_scale": 0.5, "class_factors": [0.5, 2.0]},
    "best": {"epochs": 9, "best_model": True, "early_stop": EarlyStop(patience=2, min_delta=0.001)},
    "plateau": {"epochs": 8, "reduce_lr": Plateau(patience=1, factor=0.3), "monitor": "val_auc"},
    "whole": {},
    "whole, best": {"best_model": True, "early_stop": EarlyStop(patience=1), "monitor": "val_auc"},
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(interruptions=st.lists(st.integers(1, 9), max_size=5))
def test_an_interrupted_training_ends_like_one_that_was_not(kind, interruptions):
    recipe, learning = make_recipe(**KINDS[kind]), "whole" if kind.startswith("whole") else "passes"
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        model, trainer, _ = run(recipe, learning, Path(one))
        again, resumed, processes = run(recipe, learning, Path(other), interruptions)
    np.testing.assert_array_equal(model.state, again.state)
    assert history_of(trainer) == history_of(resumed)
    assert processes <= 1 + len(interruptions)


def test_it_really_is_interrupted(tmp_path):
    _, trainer, processes = run(make_recipe(), "passes", tmp_path, [1, 1, 3])
    assert processes == 4
    assert len(trainer.history) == 4


def test_no_portion_is_trained_on_twice(tmp_path):
    recipe = make_recipe()
    model = Logistic()
    checkpoints = Checkpoints(tmp_path, "key", recipe.checkpoint)
    checkpoints.ask()
    with pytest.raises(Leave):
        list(Trainer(model, Made(recipe), recipe, checkpoints).run())
    after, _, _ = run(recipe, "passes", tmp_path)
    whole, _, _ = run(recipe, "passes", tmp_path / "other")
    assert 0 < model.events < whole.events
    assert model.events + after.events == whole.events


def test_the_best_model_is_kept_and_marked(tmp_path):
    recipe = make_recipe(epochs=50, best_model=True, early_stop=EarlyStop(patience=3))
    model, trainer, _ = run(recipe, "passes", tmp_path)
    losses = [entry["val_loss"] for entry in trainer.history]
    (best,) = [entry for entry in trainer.history if entry.get("best")]
    assert best["epoch"] == 1 + int(np.argmin(losses)) == len(losses) - 3
    plain = make_recipe(epochs=best["epoch"])
    last, _, _ = run(plain, "passes", tmp_path / "other")
    np.testing.assert_array_equal(model.state, last.state)


def test_it_stops_early_after_the_epochs_that_are_borne(tmp_path):
    recipe = make_recipe(epochs=50, early_stop=EarlyStop(patience=3), standard=True)
    _, trainer, _ = run(recipe, "passes", tmp_path)
    losses = [entry["val_loss"] for entry in trainer.history]
    assert trainer.stopped_early
    assert len(losses) == 1 + int(np.argmin(losses)) + 3 < 50


def test_the_learning_rate_is_lowered_step_by_step(tmp_path):
    recipe = make_recipe(epochs=40, reduce_lr=Plateau(patience=2, factor=0.5, least=0.1))
    _, trainer, _ = run(recipe, "passes", tmp_path)
    rates = [entry["learning_rate"] for entry in trainer.history]
    assert rates == sorted(rates, reverse=True)
    assert sorted(set(rates), reverse=True) == [0.5, 0.25, 0.125, 0.1]


def test_a_checkpoint_of_another_training_is_left_alone(tmp_path):
    recipe = make_recipe()
    checkpoints = Checkpoints(tmp_path, "one", recipe.checkpoint)
    checkpoints.ask()
    with pytest.raises(Leave):
        list(Trainer(Logistic(), Made(recipe), recipe, checkpoints).run())
    assert Checkpoints(tmp_path, "other", recipe.checkpoint).restore(Logistic()) is None
    assert Checkpoints(tmp_path, "one", recipe.checkpoint).restore(Logistic()).portions == 1


@pytest.mark.parametrize("damage", ["cut the model short", "cut the news short", "lose the model"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path, damage, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "_MOST_SHARE", 1e9)  # however long that takes
    recipe = make_recipe(checkpoint=CheckpointEvery(seconds=1e-9))  # one after every portion
    model = Logistic()
    checkpoints = Checkpoints(tmp_path, "key", recipe.checkpoint)
    trainer = Trainer(model, Made(recipe), recipe, checkpoints)
    next(trainer.run())
    (news,) = tmp_path.glob("*.json")
    (kept,) = tmp_path.glob("0*.model")
    # As if the process had been killed while it wrote the next one.
    later = tmp_path / "99999.json"
    digest = hashlib.sha256(b"0123456789").hexdigest()
    said = json.loads(news.read_text()) | {"model": "99999.model", "digests": {"99999.model": digest}}
    later.write_text(json.dumps(said))
    (tmp_path / "99999.model").write_bytes(b"0123456789")
    if damage == "cut the model short":
        (tmp_path / "99999.model").write_bytes(b"0123")
    elif damage == "cut the news short":
        later.write_text(later.read_text()[:50])
    else:
        (tmp_path / "99999.model").unlink()
    again = Logistic()
    progress = Checkpoints(tmp_path, "key", recipe.checkpoint).restore(again)
    assert progress.portions == 2 and kept.exists()
    np.testing.assert_array_equal(again.state, model.state)


def test_on_a_pool_it_leaves_at_intervals_and_elsewhere_it_only_writes(tmp_path, monkeypatch):
    recipe = make_recipe(checkpoint=CheckpointEvery(epochs=2))
    seen = []
    for folder, leave in (("pool", True), ("here", False)):
        checkpoints = Checkpoints(tmp_path / folder, "key", recipe.checkpoint, leave=leave)
        trainer = Trainer(Logistic(), Made(recipe), recipe, checkpoints)
        try:
            list(trainer.run())
            seen.append("went through")
        except Leave:
            seen.append(trainer.progress.epoch)
    assert seen == [2, "went through"]
    monkeypatch.setattr(checkpoints_module, "WRITE_SECONDS", 0.0)
    checkpoints = Checkpoints(tmp_path / "often", "key", CheckpointEvery(seconds=1000))
    list(Trainer(Logistic(), Made(recipe), recipe, checkpoints).run())
    assert list((tmp_path / "often").glob("*.json")), "written, though nobody asked"
    checkpoints.clear()
    assert list((tmp_path / "often").iterdir()) == []


def test_what_is_not_ours_in_the_folder_stays(tmp_path):
    (tmp_path / "README").write_text("x")
    checkpoints = Checkpoints(tmp_path, "key", CheckpointEvery(seconds=1))
    checkpoints.clear()
    assert (tmp_path / "README").exists()


def test_a_model_that_cannot_go_on_is_said(tmp_path):
    class Other(Logistic):
        def restore(self, path):
            raise ModelFault("is the checkpoint of another model")

    recipe = make_recipe()
    checkpoints = Checkpoints(tmp_path, "key", recipe.checkpoint)
    checkpoints.ask()
    with pytest.raises(Leave):
        list(Trainer(Logistic(), Made(recipe), recipe, checkpoints).run())
    with pytest.raises(ModelFault):
        Trainer(Other(), Made(recipe), recipe, Checkpoints(tmp_path, "key", recipe.checkpoint))
