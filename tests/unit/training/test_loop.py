"""The loop over chunks: which events are trained on, in which order, and what is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import chunks
from mlaas_condor.data.features import Columns
from mlaas_condor.data.specs import BranchSpecs, Specs
from mlaas_condor.errors import DataFault
from mlaas_condor.training import loop
from mlaas_condor.training.recipe import Recipe, classes_of

FILES = 3


class Means:
    """A model that scores an event by the nearer class mean, and remembers which events it was given."""

    def __init__(self):
        self.fitted = []
        self.sums = np.zeros(2)
        self.counts = np.zeros(2)

    def fit(self, x, y, batch_size, shuffle_seed=None):
        self.fitted.append((x[:, 1].astype(int), shuffle_seed))
        for k in (0, 1):
            self.sums[k] += x[y == k, 0].sum()
            self.counts[k] += (y == k).sum()
        return {"loss": 1.0, "accuracy": 0.5}

    def evaluate(self, x, y):
        return {"loss": float(len(y))}

    def predict(self, x):
        low, high = self.sums / np.maximum(self.counts, 1)
        return (x[:, 0] > (low + high) / 2).astype(np.float32)


def make_recipe(**changes):
    values = {
        "name": "r", "model": "model.py", "labels": [0, 1, 1], "classes": ["0", "1"], "epochs": 3,
        "batch_size": 10, "standard": True, "split": 0.25, "padding": None, "threshold": 0.5, "seed": 5,
        "verbose": 0, "threads": 1,
    }  # fmt: skip
    return Recipe(**(values | changes))


@pytest.fixture
def samples(tmp_path):
    """Give a function that makes samples of three chunks; column `number` numbers the events."""
    paths = []
    for index in range(3):
        n = 100 + index
        number = np.arange(n, dtype=np.float32) + 1000 * index
        file = np.arange(n) % FILES
        features = np.stack([(file > 0) + 0.01 * (number % 7), number]).astype(np.float32)
        chunk = chunks.Chunk(features, file.astype(np.uint32), np.arange(n, dtype=np.int64), {})
        paths.append(tmp_path / f"chunk-{index}.zip")
        chunks.write(paths[-1], chunk)
    # Minimum equal to maximum: values stay what they are.
    flat = {
        name: BranchSpecs(length=1, minimum=0.0, maximum=0.0, not_finite=0) for name in ("a_value", "number")
    }
    columns = Columns.of(Specs(flat=flat, jagged={}, kept=[]))

    def make(**changes):
        recipe = make_recipe(**changes)
        return loop.Samples(paths, columns, recipe), recipe

    return make


@given(
    y=st.lists(st.integers(0, 2), min_size=1, max_size=300),
    validation=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_event_is_in_exactly_one_part(y, validation, seed):
    parts = loop.split(np.array(y), validation, seed)
    together = np.sort(np.concatenate(list(parts.values())))
    np.testing.assert_array_equal(together, np.arange(len(y)))


def test_parts_have_their_shares_of_every_class():
    y = np.repeat([0, 1], [4000, 1000])
    parts = loop.split(y, 0.25, 1)
    assert [len(parts[name]) for name in loop.SPLITS] == [3000, 1000, 1000]
    assert [y[parts[name]].mean() for name in loop.SPLITS] == [0.2, 0.2, 0.2]


def test_the_split_depends_on_the_seed_only():
    y = np.arange(500) % 2
    same, again, other = (loop.split(y, 0.2, seed)["test"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_standard_runs_every_epoch_over_all_chunks_in_an_order_of_its_own(samples):
    made, recipe = samples()
    model = Means()
    history = list(loop.train(model, made, recipe))
    assert [(epoch.epoch, epoch.chunk) for epoch in history] == [(1, None), (2, None), (3, None)]
    orders = [[int(rows[0] // 1000) for rows, _ in model.fitted[3 * i : 3 * i + 3]] for i in range(3)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert len({seed for _, seed in model.fitted}) == 9, "batches are made anew for every pass"


def test_otherwise_each_chunk_is_trained_for_all_its_epochs(samples):
    made, recipe = samples(standard=False)
    model = Means()
    history = list(loop.train(model, made, recipe))
    assert [(epoch.chunk, epoch.epoch) for epoch in history] == [(c, e) for c in range(3) for e in (1, 2, 3)]
    assert [int(rows[0] // 1000) for rows, _ in model.fitted] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("standard", [True, False])
def test_test_and_validation_events_are_never_trained_on(samples, standard):
    made, recipe = samples(standard=standard)
    model = Means()
    history = list(loop.train(model, made, recipe))
    trained = {number for rows, _ in model.fitted for number in rows.tolist()}
    for sample in made:
        numbers = sample.x[:, 1].astype(int)
        assert trained.issuperset(numbers[sample.rows["train"]].tolist())
        assert trained.isdisjoint(numbers[sample.rows["test"]].tolist())
        assert trained.isdisjoint(numbers[sample.rows["validation"]].tolist())
    assert history[-1].val_auc == 1.0, "the classes are well apart"


def test_losses_are_means_over_events_not_over_chunks(samples):
    made, recipe = samples(epochs=1)
    (epoch,) = loop.train(Means(), made, recipe)
    held_back = [len(sample.rows["validation"]) for sample in made]
    # The model's loss of a chunk is its number of events.
    assert epoch.val_loss == pytest.approx(sum(n * n for n in held_back) / sum(held_back))
    assert epoch.events == sum(len(sample.rows["train"]) for sample in made)
    assert epoch.to_dict()["accuracy"] == 0.5


def test_scores_name_every_event_once(samples):
    made, recipe = samples()
    model = Means()
    list(loop.train(model, made, recipe))
    scores = loop.score(model, made)
    assert len(scores.y) == 303
    assert sum(len(scores.of(split)[0]) for split in loop.SPLITS) == 303
    np.testing.assert_array_equal(scores.y, (scores.source > 0).astype(int))
    y, score = scores.of("test")
    np.testing.assert_array_equal(score, y)


@pytest.mark.parametrize("standard", [True, False])
def test_one_class_only_cannot_be_trained(samples, standard):
    made, recipe = samples(standard=standard, labels=[1, 1, 1])
    with pytest.raises(DataFault, match="all of one class \\(1\\)"):
        list(loop.train(Means(), made, recipe))


def test_samples_are_the_same_from_disk_and_from_memory(samples, monkeypatch):
    made, _ = samples()
    first = [sample.x.copy() for sample in made]
    again = [sample.x for sample in made]
    monkeypatch.setattr(loop, "_KEEP_BYTES", 0)
    fresh, _ = samples()
    unkept = [sample.x for _ in range(2) for sample in fresh][3:]
    for one, two, three in zip(first, again, unkept, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (["1", "0", "1"], [1, 0, 1], ["0", "1"]),
        (["0.0", "1.0"], [0, 1], ["0", "1"]),
        (["signal", "background", "signal"], [1, 0, 1], ["background", "signal"]),
        (["5", "10", "2"], [1, 2, 0], ["2", "5", "10"]),
        (["-1", "1"], [0, 1], ["-1", "1"]),
        (["inf", "0"], [1, 0], ["0", "inf"]),
        (["0", "1", "2"], [0, 1, 2], ["0", "1", "2"]),
    ],
)
def test_labels_become_classes(labels, numbers, names):
    assert classes_of(labels) == (numbers, names)
