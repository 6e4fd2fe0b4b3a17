"""The loop over chunks: which events are trained on, in which order, and what is told."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import chunkfile
from mlaas_condor.data.features import Columns
from mlaas_condor.data.specs import BranchSpecs, Specs
from mlaas_condor.errors import DataFault
from mlaas_condor.training import loop, metrics
from mlaas_condor.training.checkpoints import Checkpoints
from mlaas_condor.training.recipe import Recipe, classes_of
from mlaas_condor.training.samples import Sample, Samples
from mlaas_condor.training.scoring import measure, score
from mlaas_condor.training.splitting import SPLITS, split

FILES = 3


class InPasses:
    """What a model has that learns in passes and has no learning rate."""

    learning = "passes"
    own_loop = False

    def learning_rate(self):
        return None

    def checkpoint(self, path):
        path.touch()


class Means(InPasses):
    """A model that scores an event by the nearer class mean, and remembers which events it was given."""

    def __init__(self):
        self.fitted = []
        self.sums = np.zeros(2)
        self.counts = np.zeros(2)

    def fit(self, x, y, batch_size, shuffle_seed=None, weights=None, validation=None):
        self.fitted.append((x[:, 1].astype(int), shuffle_seed))
        for k in (0, 1):
            self.sums[k] += x[y == k, 0].sum()
            self.counts[k] += (y == k).sum()
        return {"loss": 1.0, "accuracy": 0.5}

    def evaluate(self, x, y, weights=None):
        return {"loss": float(len(y))}

    def predict(self, x):
        low, high = self.sums / np.maximum(self.counts, 1)
        return (x[:, 0] > (low + high) / 2).astype(np.float32)


def trained(model, made, recipe):
    """Train without any interruption."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), "", recipe.checkpoint)
        yield from loop.Trainer(model, made, recipe, checkpoints).run()


def parts_of(y, validation, seed, **changes):
    """Split events that are all of one file."""
    recipe = make_recipe(split=validation, seed=seed, **changes)
    return split(np.asarray(y), np.zeros(len(y), np.uint32), recipe)


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
        features = {"a_value": np.float32((file > 0) + 0.01 * (number % 7)), "number": number}
        chunk = chunkfile.Chunk(features, file.astype(np.uint32), np.arange(n, dtype=np.int64), {})
        paths.append(tmp_path / f"chunk-{index}.zip")
        chunkfile.write(paths[-1], chunk)
    # Minimum equal to maximum: values stay what they are.
    flat = {
        name: BranchSpecs(length=1, minimum=0.0, maximum=0.0, not_finite=0) for name in ("a_value", "number")
    }
    columns = Columns.of(Specs(flat=flat, jagged={}, kept=[]))

    def make(scratch=None, **changes):
        recipe = make_recipe(**changes)
        return Samples(paths, columns, recipe, scratch), recipe

    return make


@given(
    y=st.lists(st.integers(0, 2), min_size=1, max_size=300),
    validation=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_event_is_in_exactly_one_part(y, validation, seed):
    parts = parts_of(y, validation, seed)
    together = np.sort(np.concatenate(list(parts.values())))
    np.testing.assert_array_equal(together, np.arange(len(y)))


def test_parts_have_their_shares_of_every_class():
    y = np.repeat([0, 1], [4000, 1000])
    parts = parts_of(y, 0.25, 1)
    assert [len(parts[name]) for name in SPLITS] == [3000, 1000, 1000]
    assert [y[parts[name]].mean() for name in SPLITS] == [0.2, 0.2, 0.2]


def test_the_split_depends_on_the_seed_only():
    y = np.arange(500) % 2
    same, again, other = (parts_of(y, 0.2, seed)["test"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_standard_runs_every_epoch_over_all_chunks_in_an_order_of_its_own(samples, monkeypatch):
    monkeypatch.setattr(loop, "MIXED", 1)
    made, recipe = samples()
    model = Means()
    history = list(trained(model, made, recipe))
    assert [(epoch.epoch, epoch.chunk) for epoch in history] == [(1, None), (2, None), (3, None)]
    orders = [[int(rows[0] // 1000) for rows, _ in model.fitted[3 * i : 3 * i + 3]] for i in range(3)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert len({seed for _, seed in model.fitted}) == 9, "batches are made anew for every pass"


def test_standard_mixes_the_events_of_several_chunks(samples, monkeypatch):
    monkeypatch.setattr(loop, "MIXED", 2)
    made, recipe = samples()
    model = Means()
    history = list(trained(model, made, recipe))
    chunks = [sorted({int(number) // 1000 for number in rows}) for rows, _ in model.fitted]
    assert [len(each) for each in chunks] == [2, 1] * 3
    assert all(sorted(chunks[2 * i] + chunks[2 * i + 1]) == [0, 1, 2] for i in range(3))
    assert {epoch.events for epoch in history} == {sum(len(sample.rows["train"]) for sample in made)}


def test_otherwise_each_chunk_is_trained_for_all_its_epochs(samples):
    made, recipe = samples(standard=False)
    model = Means()
    history = list(trained(model, made, recipe))
    assert [(epoch.chunk, epoch.epoch) for epoch in history] == [(c, e) for c in range(3) for e in (1, 2, 3)]
    assert [int(rows[0] // 1000) for rows, _ in model.fitted] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("standard", [True, False])
def test_test_and_validation_events_are_never_trained_on(samples, standard):
    made, recipe = samples(standard=standard)
    model = Means()
    history = list(trained(model, made, recipe))
    seen = {number for rows, _ in model.fitted for number in rows.tolist()}
    for sample in made:
        numbers = sample.x[:, 1].astype(int)
        assert seen.issuperset(numbers[sample.rows["train"]].tolist())
        assert seen.isdisjoint(numbers[sample.rows["test"]].tolist())
        assert seen.isdisjoint(numbers[sample.rows["validation"]].tolist())
    assert history[-1].val_auc == 1.0, "the classes are well apart"


def test_losses_are_means_over_events_not_over_chunks(samples):
    made, recipe = samples(epochs=1)
    (epoch,) = trained(Means(), made, recipe)
    held_back = [len(sample.rows["validation"]) for sample in made]
    # The model's loss of a chunk is its number of events.
    assert epoch.val_loss == pytest.approx(sum(n * n for n in held_back) / sum(held_back))
    assert epoch.events == sum(len(sample.rows["train"]) for sample in made)
    assert epoch.to_dict()["accuracy"] == 0.5


def test_scores_name_every_event_once(samples):
    made, recipe = samples()
    model = Means()
    list(trained(model, made, recipe))
    scores = score(model, made)
    assert len(scores.y) == 303
    assert sum(len(scores.of(each)[0]) for each in SPLITS) == 303
    np.testing.assert_array_equal(scores.y, (scores.source > 0).astype(int))
    y, found, _ = scores.of("test")
    np.testing.assert_array_equal(found, y)


@pytest.mark.parametrize("standard", [True, False])
def test_one_class_only_cannot_be_trained(samples, standard):
    made, recipe = samples(standard=standard, labels=[1, 1, 1])
    with pytest.raises(DataFault, match="all of one class \\(1\\)"):
        list(trained(Means(), made, recipe))


def test_samples_are_the_same_whether_matrices_are_kept_or_not(samples, tmp_path):
    kept, _ = samples(scratch=tmp_path)
    fresh, _ = samples()
    first, again = [sample.x.copy() for sample in kept], [sample.x for sample in kept]
    for one, two, three in zip(first, again, (sample.x for sample in fresh), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert len(list(tmp_path.glob("*.npy"))) == 3


class Made:
    """Samples from memory: three of them, with what a test gives for each event."""

    def __init__(self, recipe, truth, weigh=None):
        self.paths = [None] * 3
        self._samples = []
        for index in range(3):
            x = np.random.default_rng(index).random((200, 2), dtype=np.float32)
            y = truth(x)
            rows = split(y, np.zeros(200, np.uint32), recipe)
            weights = None if weigh is None else weigh(x)
            where = np.zeros(200, np.uint32), np.arange(200)
            self._samples.append(Sample(index, x, y, rows, *where, weights))

    def __iter__(self):
        return self.inorder(range(3))

    def __len__(self):
        return 3

    def inorder(self, order):
        return (self._samples[index] for index in order)


class Line(InPasses):
    """A regression, or a score, without learning: the first column; its losses are squares."""

    def __init__(self):
        self.given = []

    def fit(self, x, y, batch_size, shuffle_seed=None, weights=None, validation=None):
        self.given.append(weights)
        return {**self.evaluate(x, y, weights), "own": float(len(x))}

    def evaluate(self, x, y, weights=None):
        losses = (x[:, 0] - y) ** 2
        return {"loss": float(np.mean(losses if weights is None else losses * weights))}

    def predict(self, x):
        return x[:, 0]


def above(x):
    return (x[:, 0] + 0.3 * x[:, 1] > 0.6).astype(np.int64)


def together(made, which):
    parts = [(s.x[s.rows[which]], s.y[s.rows[which]], s.weights[s.rows[which]]) for s in made]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def test_samples_carry_the_weights_of_their_files(samples):
    made, _ = samples(weights=[1.0, 2.0, -0.5])
    for sample in made:
        np.testing.assert_array_equal(sample.weights, np.array([1.0, 2.0, -0.5])[sample.file])
    assert all(sample.weights is None for sample in samples()[0])


@pytest.mark.parametrize("standard", [True, False])
def test_weights_are_trained_with_in_units_of_their_scale(standard):
    recipe = make_recipe(standard=standard, epochs=1, weight_branch="w")
    made = Made(recipe, above, lambda x: 1000 * x[:, 1].astype(float))
    recipe = recipe.model_copy(update={"weight_scale": 500.0})
    model = Line()
    list(trained(model, made, recipe))
    _, _, raw = together(made, "train")
    assert np.sort(np.concatenate(model.given)) == pytest.approx(np.sort(raw) / 500)


def test_losses_and_auc_are_weighted_means():
    recipe = make_recipe(epochs=1, weight_branch="w", weight_scale=7.0)
    made = Made(recipe, above, lambda x: np.where(x[:, 1] > 0.2, 3.0 * x[:, 1], -0.1))
    (epoch,) = trained(Line(), made, recipe)
    for which, loss in (("train", epoch.loss), ("validation", epoch.val_loss)):
        x, y, w = together(made, which)
        assert loss == pytest.approx(np.average((x[:, 0] - y) ** 2, weights=w)), which
    x, y, w = together(made, "validation")
    expected = metrics.classification(y, x[:, 0], weights=w)["auc"]
    assert epoch.val_auc == pytest.approx(expected)
    counts = [len(s.rows["train"]) for s in made]
    assert epoch.metrics == {"own": sum(counts)}  # all three chunks are one pass of the model


def test_events_of_weight_zero_are_as_if_left_out():
    recipe = make_recipe(epochs=1, weight_branch="w")
    made = Made(recipe, above, lambda x: (x[:, 1] > 0.4).astype(float))
    (epoch,) = trained(Line(), made, recipe)
    x, y, w = together(made, "validation")
    kept = w > 0
    assert epoch.val_loss == pytest.approx(np.mean((x[kept, 0] - y[kept]) ** 2))
    assert epoch.val_auc == pytest.approx(metrics.classification(y[kept], x[kept, 0])["auc"])
    measured = measure(score(Line(), made), recipe)["validation"]
    alone = metrics.classification(y[kept], x[kept, 0])
    assert measured["accuracy"] == pytest.approx(alone["accuracy"])
    assert measured["confusion_matrix"] == alone["confusion_matrix"]


@pytest.mark.parametrize("standard", [True, False])
def test_a_class_without_weight_is_no_class(standard):
    recipe = make_recipe(standard=standard, weight_branch="w")
    made = Made(recipe, above, lambda x: above(x).astype(float))
    with pytest.raises(DataFault, match="all of one class \\(1\\)"):
        list(trained(Line(), made, recipe))


def test_weights_that_add_up_to_less_than_nothing_leave_no_loss():
    recipe = make_recipe(epochs=1, weight_branch="w")
    (epoch,) = trained(Line(), Made(recipe, above, lambda x: -np.ones(len(x))), recipe)
    assert np.isnan([epoch.loss, epoch.val_loss]).all()
    assert epoch.val_auc is None


def truth(x):
    return 0.5 + 2.0 * x[:, 0].astype(float)


@pytest.mark.parametrize("standard", [True, False])
@pytest.mark.parametrize("weigh", [None, lambda x: x[:, 1].astype(float)])
def test_a_regression_has_losses_and_no_auc(standard, weigh):
    recipe = make_recipe(standard=standard, task="regression", labels=[], classes=[], label_branch="m")
    recipe = recipe.model_copy(update={"weight_branch": "w" if weigh else ""})
    made = Made(recipe, truth, weigh)
    history = list(trained(Line(), made, recipe))
    assert all(epoch.val_auc is None for epoch in history)
    assert all(0 < epoch.val_loss < 4 for epoch in history)
    scores = score(Line(), made)
    assert scores.y.dtype == np.float64
    measured = measure(scores, recipe)
    x = np.concatenate([s.x[s.rows["test"]] for s in made])
    w = None if weigh is None else weigh(x)
    assert measured["test"]["bias"] == pytest.approx(np.average(x[:, 0] - truth(x), weights=w))
    assert ("weight" in measured["test"]) == (weigh is not None)


def test_a_constant_target_can_be_trained_on():
    recipe = make_recipe(task="regression", labels=[], classes=[], label_branch="m", epochs=1)
    made = Made(recipe, lambda x: np.ones(len(x)))
    (epoch,) = trained(Line(), made, recipe)
    assert np.isfinite(epoch.loss)
    assert measure(score(Line(), made), recipe)["test"]["r2"] is None


def test_targets_of_a_regression_are_not_split_like_classes():
    y = np.repeat([0.0, 1.0], [990, 10])
    plain = parts_of(y, 0.25, 1, task="regression")
    other = parts_of(np.arange(1000.0), 0.25, 1, task="regression")
    assert all(np.array_equal(plain[name], other[name]) for name in SPLITS)
    assert [len(plain[name]) for name in SPLITS] == [600, 200, 200]


def test_scores_have_the_weights_as_given_and_ones_without():
    recipe = make_recipe(weight_branch="w", weight_scale=3.0)
    weighted = score(Line(), Made(recipe, above, lambda x: x[:, 1].astype(float)))
    plain = score(Line(), Made(recipe, above))
    assert weighted.weight.dtype == plain.weight.dtype == np.float64
    assert plain.weight.tolist() == [1.0] * 600
    np.testing.assert_array_equal(
        weighted.weight[:200], np.random.default_rng(0).random((200, 2), "f4")[:, 1]
    )
    assert len(weighted.of("test")[2]) == 120
    assert "weight_by_class" not in measure(plain, make_recipe())["test"]
    assert "weight_by_class" in measure(weighted, recipe)["test"]


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
