import sys

import numpy as np
import pytest
from PIL import Image

from mlaas_condor.training import metrics, plots

generator = np.random.default_rng(5)


def sample(events, classes=2):
    y = generator.integers(0, classes, events)
    raw = np.exp(generator.normal(0, 1, (events, classes)) + 2 * np.eye(classes)[y])
    table = raw / raw.sum(axis=1, keepdims=True)
    return y, table[:, 1] if classes == 2 else table


def has_colour(path, colour):
    pixels = np.asarray(Image.open(path).convert("RGB"), int)
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels - wanted).max(axis=-1) < 12).any())


def history(passes, chunks=None):
    return [
        {
            "epoch": i + 1,
            "chunk": chunks and i // 3,
            "loss": 1 / (i + 1),
            "val_loss": 1.1 / (i + 1),
            "val_auc": 0.9,
        }
        for i in range(passes)
    ]


@pytest.mark.parametrize("entries", [history(12), history(12, True), history(1), history(300, True), []])
def test_learning_curves(tmp_path, entries):
    plots.learning_curves(entries, tmp_path / "a.png")
    assert has_colour(tmp_path / "a.png", plots.COLOURS[0]) == bool(entries)
    assert has_colour(tmp_path / "a.png", plots.COLOURS[1]) == bool(entries)


def test_learning_curves_leave_gaps_where_a_value_is_missing(tmp_path):
    entries = [
        {"epoch": 1, "chunk": None, "loss": 0.7, "val_auc": None},
        {"epoch": 2, "chunk": None, "loss": None},
    ]
    plots.learning_curves(entries, tmp_path / "a.png")
    assert has_colour(tmp_path / "a.png", plots.COLOURS[0])
    assert not has_colour(tmp_path / "a.png", plots.COLOURS[1])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_roc_and_scores_show_every_class(tmp_path, classes):
    splits = {"train": sample(400, classes), "test": sample(100, classes)}
    plots.roc({split: metrics.classification(*pair) for split, pair in splits.items()}, tmp_path / "roc.png")
    plots.scores(
        {split: scores for split, (_, scores) in splits.items()},
        {split: y for split, (y, _) in splits.items()},
        tmp_path / "scores.png",
    )
    for colour in plots.COLOURS[:classes]:
        assert has_colour(tmp_path / "roc.png", colour)
        assert has_colour(tmp_path / "scores.png", colour)


def test_a_class_without_events_has_its_panel(tmp_path):
    y, table = sample(200, 3)
    seen = y < 2
    plots.scores({"test": table[seen]}, {"test": y[seen]}, tmp_path / "scores.png")
    with Image.open(tmp_path / "scores.png") as picture:
        assert picture.width > 3 * picture.height


def test_samples_with_one_class_or_nothing_can_be_drawn(tmp_path):
    alone = metrics.classification(np.zeros(4, int), np.full(4, 0.3))
    plots.roc({"test": alone}, tmp_path / "roc.png")
    plots.scores({"test": np.full(4, 0.3)}, {"test": np.zeros(4, int)}, tmp_path / "scores.png", ["a", "b"])
    plots.scores({}, {}, tmp_path / "nothing.png")
    assert has_colour(tmp_path / "scores.png", plots.COLOURS[0])
    assert not has_colour(tmp_path / "nothing.png", plots.COLOURS[0])


def test_nothing_stays_behind_in_matplotlib(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.learning_curves(history(3), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def regressed(events):
    true = generator.uniform(10, 60, events)
    return true, true + generator.normal(0, 5, events), generator.choice([-1.0, 1.0, 2.0], events)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_residuals(tmp_path, weighted, splits):
    made = {split: regressed(500) for split in splits}
    true, predicted, weights = ({split: v[i] for split, v in made.items()} for i in range(3))
    plots.residuals(true, predicted, tmp_path / "a.png", "jet_pt", weights if weighted else None)
    assert has_colour(tmp_path / "a.png", plots.COLOURS[0])  # training
    assert has_colour(tmp_path / "a.png", plots.COLOURS[1])  # test, and the diagonal


@pytest.mark.parametrize("events", [0, 1, 3])
def test_few_residuals_or_equal_ones_can_be_drawn(tmp_path, events):
    same = {"train": np.full(events, 4.0), "test": np.zeros(0)}
    plots.residuals(same, same, tmp_path / "a.png")
    plots.residuals(same, same, tmp_path / "b.png", "x", {"train": -np.ones(events), "test": np.zeros(0)})
    assert (tmp_path / "b.png").exists()


def test_scores_of_events_of_weight_zero_are_not_there(tmp_path):
    y, values = sample(300)
    out = []
    for name, keep in (("zero", slice(None)), ("without", y == 1)):
        weights = {"test": (y == 1).astype(float)[keep]}
        plots.scores({"test": values[keep]}, {"test": y[keep]}, tmp_path / f"{name}.png", ["a", "b"], weights)
        out.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
    np.testing.assert_array_equal(*out)
    assert has_colour(tmp_path / "zero.png", plots.COLOURS[1])


def test_negative_shares_are_in_the_picture(tmp_path):
    values, y = np.array([0.1, 0.1, 0.9]), np.zeros(3, int)
    weights = {"train": np.array([1.0, 1.0, -1.0])}
    plots.scores({"train": values}, {"train": y}, tmp_path / "down.png", ["a"], weights)
    plots.scores({"train": values[:2]}, {"train": y[:2]}, tmp_path / "up.png", ["a"])
    down, up = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("down", "up"))
    assert not np.array_equal(down, up)
    assert has_colour(tmp_path / "down.png", plots.COLOURS[0])
