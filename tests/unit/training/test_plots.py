import re
import sys

import numpy as np
import pytest
from PIL import Image

from mlaas_condor.data.features import Columns, Scale
from mlaas_condor.training import comparison, metrics
from mlaas_condor.training.distributions import Distributions
from mlaas_condor.training.report import plots
from mlaas_condor.training.report.plots.style import shown

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


@pytest.mark.parametrize("classes", [2, 5])
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


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), int)


def test_the_epoch_whose_model_is_kept_is_marked(tmp_path):
    entries = history(12)
    plots.learning_curves(entries, tmp_path / "none.png")
    entries[8]["best"] = True
    plots.learning_curves(entries, tmp_path / "best.png")
    assert not has_colour(tmp_path / "none.png", plots.COLOURS[3])
    assert has_colour(tmp_path / "best.png", plots.COLOURS[3])


def test_what_has_no_curves_is_told():
    assert plots.has_curves(history(1))
    assert not plots.has_curves([{"epoch": 1, "chunk": None, "loss": None, "learning_rate": None}])
    assert not plots.has_curves([])


def test_a_learning_rate_is_drawn_only_if_it_changes(tmp_path):
    heights = []
    for rate in (1.0, 0.5):
        entries = [{**entry, "learning_rate": rate if i > 5 else 1.0} for i, entry in enumerate(history(12))]
        plots.learning_curves(entries, tmp_path / "a.png")
        heights.append(len(pixels(tmp_path / "a.png")))
    assert heights[0] < heights[1]


NASTY = ["$x_{", "_hidden", "<script>alert('x')</script>", "τ → 3µ 重い", "a" * 200, "100 % \\frac $$"]


@pytest.mark.parametrize("count", [2, 4, 13])
def test_classes_may_be_called_anything_and_be_many(tmp_path, count):
    names = [f"{NASTY[k % len(NASTY)]}{k}" for k in range(count)]
    splits = {"train": sample(40 * count, count), "test": sample(20 * count, count)}
    measured = {split: metrics.classification(*pair) for split, pair in splits.items()}
    scores, y = ({split: pair[i] for split, pair in splits.items()} for i in (1, 0))
    plots.roc(measured, tmp_path / "roc.png", names)
    plots.precision_recall(measured, tmp_path / "pr.png", names)
    plots.confusion(measured["test"], tmp_path / "confusion.png", names)
    plots.scores(scores, y, tmp_path / "scores.png", names, None, comparison.overtraining(scores, y))
    for name in ("roc", "pr", "confusion", "scores"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width < 2200 and picture.height < 2400


def test_names_are_shown_letter_by_letter():
    assert shown("$x$") == r"\$x\$"
    assert shown("_a").lstrip("\u200a") == "_a" and not shown("_a").startswith("_")
    assert len(shown("a" * 50)) == 40 and shown("a" * 50).endswith("…")
    assert shown("jet_pt") == "jet_pt"


def test_p_values_are_written_on_the_scores(tmp_path):
    y, values = sample(300)
    both = {"train": values, "test": values[::-1]}, {"train": y, "test": y[::-1]}
    plots.scores(*both, tmp_path / "without.png")
    plots.scores(*both, tmp_path / "with.png", overtraining=comparison.overtraining(*both))
    assert not np.array_equal(pixels(tmp_path / "without.png"), pixels(tmp_path / "with.png"))


def test_cells_of_a_confusion_matrix_are_as_dark_as_their_share(tmp_path):
    right = {"confusion_matrix": [[90, 10], [0, 50]]}
    plots.confusion(right, tmp_path / "a.png", ["b", "s"])
    plots.confusion({"confusion_matrix": [[9, 1], [0, 7]]}, tmp_path / "less.png", ["b", "s"])
    picture = pixels(tmp_path / "a.png")
    high, wide = picture.shape[:2]
    upper, lower = (picture[int(high * share), int(wide * 0.25)].sum() for share in (0.1, 0.75))
    assert upper < 400 < 650 < lower, "most of b is taken for b, nothing of s is"
    empty = {"confusion_matrix": [[0, 0], [-0.5, 2.5]], "weight_by_class": {"0": 0, "1": 2.0}}
    plots.confusion(empty, tmp_path / "empty.png")


def test_importance_shows_at_most_so_many(tmp_path):
    found = [{"branch": f"b{i}", "importance": 1 / (i + 1), "deviation": 0.01} for i in range(60)]
    plots.importance(found, tmp_path / "many.png")
    plots.importance(found[:25], tmp_path / "most.png")
    np.testing.assert_array_equal(pixels(tmp_path / "many.png"), pixels(tmp_path / "most.png"))
    once = [{"branch": "$", "importance": -0.1, "deviation": None}]
    plots.importance(once, tmp_path / "one.png", "regression")
    plots.importance([], tmp_path / "none.png")
    assert has_colour(tmp_path / "one.png", plots.COLOURS[0])
    assert not has_colour(tmp_path / "none.png", plots.COLOURS[0])


def counted(values, classes=("b", "s"), missing=None):
    """Count branches given as columns, standardised."""
    names = tuple(values)
    columns = Columns(
        names,
        {name: i for i, name in enumerate(names)},
        dict.fromkeys(names, 1),
        dict.fromkeys(names, Scale(5.0, 2.0, "float32", 0.0)),
    )
    found = Distributions(columns, classes)
    x = ((np.column_stack(list(values.values())) - 5) / 2).astype(np.float32)
    found.add(x, np.arange(len(x)) % max(1, len(classes)), None, missing)
    return found


def test_each_branch_has_a_picture_under_a_safe_name(tmp_path):
    values = {
        "../../etc/passwd": generator.normal(0, 1, 500),
        "a/b": np.zeros(500),
        "a b": np.arange(500) % 7,
        "A_B": np.arange(500) // 3,
        "$\\frac{": generator.exponential(1, 500) ** 8,
        "重い": generator.choice([0.0, 1.0], 500),
    }
    missing = np.zeros((500, 6), bool)
    missing[::3] = True
    missing[:, 5] = True
    found = counted(values, missing=missing)
    (tmp_path / "pdfs").mkdir()
    files = plots.each_branch(found, list(found.histograms), tmp_path / "pdfs")
    assert sorted(files.values()) == sorted(path.name for path in (tmp_path / "pdfs").iterdir())
    assert len({file.lower() for file in files.values()}) == 6, "capital letters may make no difference"
    assert not any(re.search(r"[^A-Za-z0-9_.+-]", file) for file in files.values())
    assert not any(file.startswith((".", "-")) for file in files.values())
    for file in files.values():
        assert pixels(tmp_path / "pdfs" / file).shape == (528, 1320, 3)


def test_padding_is_marked_where_values_become_features(tmp_path):
    values = {"x": generator.uniform(0, 10, 500)}
    dark = []
    for missing in (None, np.arange(500)[:, None] % 4 == 0):
        files = plots.each_branch(counted(values, missing=missing), ["x"], tmp_path)
        # Padding is 0 after normalising: in the middle of the right panel.
        middle = pixels(tmp_path / files["x"])[100:400, 1010:1040]
        dark.append((middle.sum(axis=2) < 300).sum())
    assert dark[0] == 0
    assert dark[1] > 100


@pytest.mark.parametrize("count", [1, 13])
def test_overview(tmp_path, count):
    found = counted({f"b{i}": generator.normal(0, 1, 200) for i in range(count)})
    plots.overview(found, list(found.histograms), tmp_path / "a.png")
    assert has_colour(tmp_path / "a.png", plots.COLOURS[0])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height < 1300


def test_overview_of_a_regression_and_of_many_classes(tmp_path):
    values = {"x": generator.normal(0, 1, 500)}
    plots.overview(counted(values, ()), ["x"], tmp_path / "one.png")
    plots.overview(counted(values, [f"c{k}" for k in range(15)]), ["x"], tmp_path / "many.png")
    assert has_colour(tmp_path / "one.png", plots.COLOURS[0])


def test_file_names():
    taken = set()
    assert [plots.file_name(name, taken) for name in ("pt", "pT", "a/b", "a b", "..", "", "x" * 300)] == [
        "pt", "pT-2", "a_b", "a_b-2", "_", "_-2", "x" * 100,
    ]  # fmt: skip


def test_scan_marks_the_best(tmp_path):
    points = [
        {"values": {"batch_size": size, "model.width": width, "normalise": how}, "metric": size / width}
        for size in (50, 100, 5000) for width in (8, 16) for how in ("minmax", "none")
    ]  # fmt: skip
    points[3]["metric"] = None
    plots.scan(points, tmp_path / "a.png")
    plots.scan(points, tmp_path / "b.png", "RMSE", larger_is_better=False)
    assert has_colour(tmp_path / "a.png", plots.COLOURS[1])
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    plots.scan([], tmp_path / "none.png")
    plots.scan([{"values": {"class_weights": {"a": 1}}, "metric": 0.5}], tmp_path / "one.png")


@pytest.mark.parametrize("classes", [2, 3])
def test_folds_and_their_mean(tmp_path, classes):
    found = [metrics.classification(*sample(300, classes)) for _ in range(4)]
    plots.folds(found, tmp_path / "a.png")
    plots.folds(found[:1], tmp_path / "one.png")
    plots.folds([metrics.classification(np.zeros(4, int), np.full(4, 0.3))], tmp_path / "none.png")
    assert has_colour(tmp_path / "a.png", plots.COLOURS[0])
    assert not has_colour(tmp_path / "none.png", plots.COLOURS[0])
